from __future__ import annotations

import multiprocessing as mp

import numpy as np

from sweeper.data.fashion import SAMPLE
from sweeper.data.images import Labelled
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import Split
from tests.support.sharing import change_and_read


def split(train: int, val: int) -> Split:
    values = np.arange((train + val) * 784, dtype=np.uint8).reshape(-1, 28, 28, 1)
    images = Labelled(values, np.arange(train + val))
    return Split(images[:train], images[train:], SAMPLE.spec)


def test_a_child_process_shares_the_memory_of_splits():
    shared = SharedSplits([split(10, 10), split(20, 11)])
    ours, theirs = mp.Pipe()
    child = mp.get_context("spawn").Process(target=change_and_read, args=(shared, theirs))
    child.start()
    ours.recv()
    assert shared[0].train.pixels[0, 0, 0] == 77
    shared[1].val.labels[0] = 5
    ours.send(None)
    assert ours.recv() == ([array.sum() for split in shared for array in split.arrays()], False)
    child.join()


def test_shared_splits_are_those_that_were_given():
    given = [split(10, 10), split(20, 11)]
    shared = SharedSplits(given)
    assert len(shared) == 2
    for one, other in zip(given, shared, strict=True):
        for array, copy in zip(one.arrays(), other.arrays(), strict=True):
            assert (array.dtype, array.tolist()) == (copy.dtype, copy.tolist())
