"""Which engine was chosen, whether it can be, and what it is given; the engine of worker processes, as it is built.

    processes   worker processes; with one, a sweep is the same each time
    serial      in this process, one at a time: breakpoints work
    fused       in this process: on a CPU trainings of one shape stacked into one, on a GPU any of them side by side
    ray         tasks on a Ray cluster
    auto        on a GPU fused; on a CPU fused where a short calibration says that it pays, else processes

Nothing here needs torch in this process: those that do are built by `engines`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.environment import Say
from sweeper.core.errors import ConfigError
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine, cores
from sweeper.engine.calibration import _fastest
from sweeper.engine.concurrent import ConcurrentEngine
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.engine.fused import FusedEngine
from sweeper.engine.processes import ProcessEngine
from sweeper.engine.serial import SerialEngine
from sweeper.tracking.base import ENGINE_TAG
from sweeper.training.images import Data

ENGINES: Final = ("auto", "serial", "processes", "fused", "ray")
CONCURRENT: Final = "concurrent"  # what a training's record calls the engine that is fused on a GPU
MANY: Final = ("fused", CONCURRENT, "ray")  # may hold many more trainings than there are cores
GPU_FILES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of a driver of GPUs
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


def chosen(choice: EngineChoice, device: str) -> str:
    """The name of the engine: one that was asked for, or what is taken on `device`."""
    return choice.name or ("processes" if device == "cpu" else "auto")


def likely_here(name: str | None, device: str) -> bool:
    """Whether this process is likely to train, or to measure what pays, so that it had better load torch at once.

    `name` is that of an `EngineChoice`; `device` may be `auto`.
    """
    if name is not None:
        return name != "processes"
    return device != "cpu" and (device != "auto" or any(Path(file).exists() for file in GPU_FILES))


def processes(splits: SharedSplits, workers: int, most: int) -> Built:
    """The engine of `workers` processes, or of `most`, where it is less."""
    threads = max(1, cores() // workers)  # however few trainings are left, so that times stay comparable
    return Built(ProcessEngine(splits, max(0, min(workers, most)), threads), "processes", threads)


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


def build(
    choice: EngineChoice, splits: SharedSplits, configs: Sequence[RunConfig], most: int, say: Say, *, few: int
) -> Built:
    """The engine that was chosen, for trainings such as `configs`, at which only `auto` looks.

    It holds at most `most` at a time, and at most `few` where it could hold many more than there are cores. To be
    called soon after `prepare`, which has looked at the Ray cluster.

    Raises:
        UsageError: Ray finds fewer GPUs on this machine than a training is to have.
    """
    few = max(1, min(few, most))
    kind = configs[0].device.partition(":")[0]
    name = chosen(choice, kind)
    members = min(choice.workers or MEMBERS[kind], few)
    workers = choice.workers or (cores() if name == "auto" else 1)
    data = [Data.from_arrays(split) for split in splits]
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
            return processes(splits, workers, most)


def _ray(choice: EngineChoice, data: Sequence[Data], few: int) -> Engine:
    from sweeper.engine.ray import RayEngine

    return RayEngine(data, choice.workers, address=choice.address, cpus=choice.cpus, gpus=choice.gpus, few=few,
                     checked=True)  # fmt: skip
