"""Which engine to use, whether it can be used here, and how it is built.

    processes   worker processes; with one, a sweep is the same each time
    serial      in this process, one at a time: breakpoints work
    gpu         in this process, many trainings side by side on one GPU
    ray         tasks on a Ray cluster
    auto        gpu on a GPU, processes on a CPU and for cross-validation

Choosing and building the engine of worker processes loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.errors import ConfigError
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.engine.processes import ProcessEngine
from sweeper.tracking.base import ENGINE_TAG

if TYPE_CHECKING:
    from sweeper.training.images import Data


MANY: Final = ("gpu", "ray")  # may hold many more trainings than there are cores
SIDE_BY_SIDE: Final = 16  # trainings on a GPU at most, unless --workers says how many
GPU_FILES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of a driver of GPUs


@dataclass(frozen=True)
class EngineChoice:
    """What the command line said. `workers` are trainings at a time; None leaves them to the engine."""

    name: str = "auto"
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
    if choice.name == "gpu" and config.device == "cpu":
        raise ConfigError(
            "engine='gpu': training on cpu, and this engine needs a GPU. Use --engine processes --workers N, or run it "
            "where there is a GPU."
        )
    if choice.name == "gpu" and config.split == "folds":
        raise ConfigError("engine='gpu': cross-validation cannot share a GPU. Use --engine processes.")
    if choice.gpus and config.device == "cpu":
        raise ConfigError(
            f"gpus_per_trial={choice.gpus:g}: training on cpu leaves them idle; start the driver where there is a GPU, "
            "as --device auto looks here, or leave it out"
        )
    if choice.name == "ray" and ":" in config.device:
        raise ConfigError(f"device={config.device!r}: Ray gives a training its GPU; take --device cuda")
    if choice.name == "ray" and config.device != "cpu" and not choice.gpus:
        raise ConfigError(f"gpus_per_trial=0: training on {config.device} in Ray needs a part of a GPU, such as 0.25")


def resolve(choice: EngineChoice, config: RunConfig) -> EngineChoice:
    """Replace `auto` by the engine for `config`; any other choice stays as it is."""
    if choice.name != "auto":
        return choice
    if config.device == "cpu":
        return replace(choice, name="processes")
    if config.split == "folds":
        return replace(choice, name="processes", workers=choice.workers or cores())
    return replace(choice, name="gpu")


def likely_here(name: str, device: str) -> bool:
    """Return True if this process is likely to train, and should load torch at once.

    `name` is that of an `EngineChoice`; `device` may be `auto`.
    """
    if name != "auto":
        return name != "processes"
    return device != "cpu" and (device != "auto" or any(Path(file).exists() for file in GPU_FILES))


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


def build(choice: EngineChoice, config: RunConfig, splits: SharedSplits, most: int, *, few: int) -> Built:
    """Build the engine for trainings such as `config`. Call it soon after `prepare`, which has checked the Ray cluster.

    It holds at most `most` trainings at a time, and at most `few` if it is one of `MANY`.

    Raises:
        UsageError: Ray finds fewer GPUs on this machine than a training is to have.
    """
    choice = resolve(choice, config)
    if choice.name == "processes":
        return _processes(splits, choice.workers or 1, most)
    from sweeper.training.images import Data  # and with it torch

    data = [Data.from_arrays(split) for split in splits]
    few = max(1, min(few, most))
    match choice.name:
        case "serial":
            return _serial(data)
        case "gpu":
            return _gpu(data, config.device, min(choice.workers or SIDE_BY_SIDE, few))
        case _:
            return _ray(choice, data, few)


def _processes(splits: SharedSplits, workers: int, most: int) -> Built:
    """The engine of `workers` processes, or of `most`, where it is less."""
    threads = max(1, cores() // workers)  # however few trainings are left, so that times stay comparable
    return Built(ProcessEngine(splits, max(0, min(workers, most)), threads), "processes", threads)


def _serial(data: Sequence[Data]) -> Built:
    from sweeper.engine.serial import SerialEngine

    return Built(SerialEngine(data, cores()), "serial", cores())


def _gpu(data: Sequence[Data], device: str, slots: int) -> Built:
    from sweeper.engine.concurrent import ConcurrentEngine

    return Built(ConcurrentEngine(data, device, cores(), slots), "gpu", cores())


def _ray(choice: EngineChoice, data: Sequence[Data], few: int) -> Built:
    from sweeper.engine.ray import RayEngine

    engine = RayEngine(data, choice.workers, address=choice.address, cpus=choice.cpus, gpus=choice.gpus, few=few,
                       checked=True)  # fmt: skip
    return Built(engine, "ray", max(1, int(choice.cpus)))
