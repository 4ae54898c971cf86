"""The engine that was chosen, with its slots and threads; and whether stacking trainings pays on this machine.

Nothing but `auto` decides by a stopwatch, and it has to be asked for: a search asks in batches of what is stacked, so
that its trials depend on the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from sweeper.core.config import RunConfig
from sweeper.core.environment import Say
from sweeper.core.files import write_whole
from sweeper.core.results import EpochResult
from sweeper.engine.base import cores
from sweeper.training.device import hardware, use_threads
from sweeper.training.failures import out_of_memory
from sweeper.training.folds import finish
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.stacked import signature, train_members

PAYS: Final = 1.2  # stacked trainings must be so many times as fast: a calibration is short
STEPS: Final = 6  # of an epoch of the calibration
CALM: Final = 1e-3  # its learning rate, at most: speed does not depend on it, and nothing shall diverge


# --- does stacking pay? ------------------------------------------------------------------------------------


def _fastest(data: Sequence[Data], configs: Sequence[RunConfig], members: int, workers: int, say: Say) -> str:
    """`fused` or `processes`; on a GPU the first, if it can be.

    On a CPU by the groups that `configs` fall into, and a calibration at the size that those of two and more have on
    average; what is left alone goes on at the pace of the processes (Amdahl 1967).
    """
    if configs[0].device != "cpu":
        return "processes" if configs[0].split == "folds" else "fused"
    groups = Counter(map(signature, configs[:members]))
    stacks = [size for size in groups.values() if size > 1]
    if configs[0].split == "folds" or not stacks:
        say("engine: processes (what is trained has too many shapes to be stacked)")
        return "processes"
    size, share = sum(stacks) // len(stacks), sum(stacks) / groups.total()
    (most, _), *_ = groups.most_common(1)
    typical = next(config for config in configs if signature(config) == most)
    ratio = speedup(typical, data[0], size, workers)
    overall = ratio / (share + ratio * (1 - share))
    name = "fused" if overall >= PAYS else "processes"
    apart = f"{workers} worker process{'es' if workers > 1 else ''}"
    whole = "" if share == 1 else f"; {share:.0%} can be stacked: {overall:.2f} times"
    say(f"engine: {name} ({size} stacked trainings ran at {ratio:.2f} times the pace of {apart}{whole})")
    return name


def speedup(config: RunConfig, data: Data, members: int, workers: int) -> float:
    """How many times as fast `members` stacked trainings are as `workers` processes: images a second over images a
    second, on a few steps. Measured once on a machine, and kept in the user's cache folder."""
    asked = [hardware(config.device), cores(), signature(config), members, workers, version("torch")]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    path = user_cache_path("sweeper") / "calibration.json"
    known = _read(path)
    if key not in known:
        known[key] = _measure(config, data, members, workers)
        _write(path, known)
    return known[key]


def _measure(config: RunConfig, data: Data, members: int, workers: int) -> float:
    images = min(len(data.train), STEPS * config.batch_size)
    small = Data(data.train.first(images), data.val.first(min(len(data.val), config.batch_size)))
    brief = config.derive(epochs=2, train_images=0, lr=min(config.lr, CALM))
    use_threads(max(1, cores() // workers))
    apart = finish(train(brief, small)).history[-1].images_per_s
    use_threads(cores())
    return _stacked_pace(brief, small, members) / (apart * workers)


def _stacked_pace(brief: RunConfig, data: Data, members: int) -> float:
    """Images a second of `members` stacked trainings, or of half as many until memory is enough, as the engine does."""
    try:
        stack = train_members([brief.derive(seed=seed) for seed in range(members)], data)
        return [last.images_per_s for step in stack for last in step.values() if isinstance(last, EpochResult)][-1]
    except (MemoryError, RuntimeError) as error:
        if members == 1 or not out_of_memory(error):
            raise
    return _stacked_pace(brief, data, members // 2)


def _read(path: Path) -> dict[str, float]:
    """The calibrations that are kept; none if the file is not what it should be."""
    try:
        known = json.loads(path.read_text())
        return {key: float(ratio) for key, ratio in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, known: dict[str, float]) -> None:
    """Keep the calibrations where that can be done; else they are made again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(known, indent=1).encode())
