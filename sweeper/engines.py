"""Which engine trains, with how many slots and threads; and whether stacking trainings pays on this machine.

    processes   worker processes; with one, a sweep is the same each time
    serial      in this process, one at a time: breakpoints work
    fused       in this process: on a CPU trainings of one shape stacked into one, on a GPU any of them side by side
    ray         tasks on a Ray cluster
    auto        on a GPU fused; on a CPU fused where a short calibration says that it pays, else processes

Nothing but `auto` decides by a stopwatch, and it has to be asked for: a search asks in batches of what is stacked, so
that its trials depend on the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from platformdirs import user_cache_path

from sweeper.config import RunConfig
from sweeper.data import Data
from sweeper.engine.base import Engine, cores
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.engine.fused import FusedEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.environment import Say
from sweeper.errors import ConfigError
from sweeper.journal import ENGINE_TAG, write_whole
from sweeper.members import signature, train_members
from sweeper.train import EpochResult, finish, hardware, out_of_memory, train, use_threads

ENGINES: Final = ("auto", "serial", "processes", "fused", "ray")
CONCURRENT: Final = "concurrent"  # what a training's record calls the engine that is fused on a GPU
MANY: Final = ("fused", CONCURRENT, "ray")  # may hold many more trainings than there are cores
PAYS: Final = 1.2  # stacked trainings must be so many times as fast: a calibration is short
STEPS: Final = 6  # of an epoch of the calibration
CALM: Final = 1e-3  # its learning rate, at most: speed does not depend on it, and nothing shall diverge
MEMBERS: Final = {"cpu": 8, "cuda": 16}  # stacked at most, unless --workers says how many


@dataclass(frozen=True)
class EngineChoice:
    """What the command line said. `workers` are trainings at a time; None leaves them to the engine."""

    name: str | None = None  # None: auto on a GPU, processes on a CPU
    workers: int | None = 1
    address: str | None = None  # of a Ray cluster; None: one is started here
    cpus: float = 1.0  # that Ray reserves for a training
    gpus: float = 0.0


ONE_WORKER: Final = EngineChoice()


class Built(NamedTuple):
    """An engine, its name, and the threads of one of its trainings."""

    engine: Engine
    name: str
    threads: int

    def tags(self) -> dict[str, str]:
        """What a run's record says of the engine."""
        return {ENGINE_TAG: self.name}


def check(choice: EngineChoice, config: RunConfig) -> None:
    """Refuse a choice that cannot be.

    Raises:
        ConfigError: one line.
    """
    if choice.name == "serial" and (choice.workers or 1) > 1:
        raise ConfigError(f"workers={choice.workers}: the engine serial trains one at a time; take processes")
    if choice.name != "ray":
        for name, value, default in (
            ("address", choice.address, None),
            ("cpus_per_trial", choice.cpus, 1),
            ("gpus_per_trial", choice.gpus, 0),
        ):
            if value != default:
                raise ConfigError(f"{name}={value!r}: only Ray takes it; add --engine ray")
    if choice.name == "fused" and config.split == "folds":
        raise ConfigError("engine='fused': cross-validation cannot be stacked; take processes")
    if choice.gpus and config.device == "cpu":
        raise ConfigError(
            f"gpus_per_trial={choice.gpus:g}: training on cpu leaves them idle; start the driver where there is a GPU, "
            "as --device auto looks here, or leave it out"
        )
    if choice.name == "ray" and ":" in config.device:
        raise ConfigError(f"device={config.device!r}: Ray gives a training its GPU; take --device cuda")
    if choice.name == "ray" and config.device != "cpu" and not choice.gpus:
        raise ConfigError(f"gpus_per_trial=0: training on {config.device} in Ray needs a part of a GPU, such as 0.25")


def build(
    choice: EngineChoice, data: Sequence[Data], configs: Sequence[RunConfig], most: int, say: Say, *, few: int
) -> Built:
    """The engine that was chosen, for trainings such as `configs`, at which only `auto` looks.

    It holds at most `most` at a time, and at most `few` where it could hold many more than there are cores. To be
    called soon after `prepare`, which has looked at the Ray cluster.

    Raises:
        UsageError: Ray finds fewer GPUs on this machine than a training is to have.
    """
    few = max(1, min(few, most))
    kind = configs[0].device.partition(":")[0]
    name = choice.name or ("processes" if kind == "cpu" else "auto")
    members = min(choice.workers or MEMBERS[kind], few)
    workers = choice.workers or (cores() if name == "auto" else 1)
    if name == "auto":
        name = _fastest(data, configs, members, workers, say)
    match name:
        case "serial":
            return Built(SerialEngine(data, cores()), name, cores())
        case "fused" if kind == "cuda":
            return Built(ConcurrentEngine(data, configs[0].device, cores(), members), CONCURRENT, cores())
        case "fused":
            return Built(FusedEngine(data, cores(), members), name, cores())
        case "ray":
            return Built(_ray(choice, data, few), name, max(1, int(choice.cpus)))
        case _:
            return _processes(data, workers, most)


def _processes(data: Sequence[Data], workers: int, most: int) -> Built:
    threads = max(1, cores() // workers)  # however few trainings are left, so that times stay comparable
    return Built(ProcessEngine(data, max(0, min(workers, most)), threads), "processes", threads)


def prepare(choice: EngineChoice) -> None:
    """See that Ray is there, and start what workers are forked from.

    To be called before anything is created, and before any thread needs a variable that holds a secret.

    Raises:
        ConfigError: Ray is not installed.
        UsageError: the address is none that a driver can join.
        ServiceUnreachable: the Ray cluster does not answer.
    """
    if choice.name == "ray":
        try:
            from sweeper.engine.ray import check_cluster
        except ImportError as error:
            raise ConfigError(f"engine='ray': {error}; install it with: pip install 'sweeper[ray]'") from None
        if choice.address is not None:
            check_cluster(choice.address)
    if choice.name in FORKING:
        start_server()


def _ray(choice: EngineChoice, data: Sequence[Data], few: int) -> Engine:
    from sweeper.engine.ray import RayEngine

    return RayEngine(data, choice.workers, address=choice.address, cpus=choice.cpus, gpus=choice.gpus, few=few,
                     checked=True)  # fmt: skip


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
