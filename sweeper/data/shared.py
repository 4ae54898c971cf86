"""Splits in shared memory, which worker processes read without a copy."""

from __future__ import annotations

import ctypes
import multiprocessing as mp
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sweeper.core.images import Array, ImageSpec
from sweeper.data.splits import Split


class SharedSplits(Sequence[Split]):
    """Copies of splits in shared memory.

    Pass them to a process only as an argument when you start it; it receives a list.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        arrays = [array for split in splits for array in split.arrays()]
        self._layout = [(array.dtype.str, array.shape) for array in arrays], [split.spec for split in splits]
        self._memory = mp.get_context("forkserver").RawArray(ctypes.c_uint8, sum(array.nbytes for array in arrays))
        self._splits = _splits_in(self._memory, self._layout)
        for place, array in zip(_arrays_in(self._memory, self._layout[0]), arrays, strict=True):
            place[...] = array

    def __len__(self) -> int:
        return len(self._splits)

    def __getitem__(self, index: Any) -> Any:
        return self._splits[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return _splits_in, (self._memory, self._layout)


Arrays = list[tuple[str, tuple[int, ...]]]  # type and shape of each
Layout = tuple[Arrays, list[ImageSpec]]  # four arrays and one description a split


def _arrays_in(memory: Any, layout: Arrays) -> Iterator[Array]:
    start = 0
    for dtype, shape in layout:
        array = np.frombuffer(memory, dtype, int(np.prod(shape)), start).reshape(shape)
        start += array.nbytes
        yield array


def _splits_in(memory: Any, layout: Layout) -> list[Split]:
    arrays = list(_arrays_in(memory, layout[0]))
    return [Split.from_arrays(arrays[4 * i : 4 * i + 4], spec) for i, spec in enumerate(layout[1])]
