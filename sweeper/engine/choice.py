"""Choose an engine, check that it can be used here, and build it.

    processes   worker processes; with one, a sweep is the same each time
    serial      in this process, one run at a time: breakpoints work
    gpu         in this process, many runs side by side on one GPU
    ray         tasks on a Ray cluster
    auto        gpu on a GPU, processes on a CPU and for cross-validation

Choosing and building the engine of worker processes loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Say
from sweeper.core.errors import ConfigError
from sweeper.data.shared import SharedSplits
from sweeper.engine.base import Engine
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.engine.processes import ProcessEngine

MANY: Final = ("gpu", "ray")  # may hold many more runs than there are cores
SIDE_BY_SIDE: Final = 16  # runs on a GPU at most, unless --workers sets the number
GPU_FILES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of a driver of GPUs


@dataclass(frozen=True)
class EngineChoice:
    """An engine as the command line names it. `workers` is the number of runs at a time; None: the engine decides."""

    name: str = "auto"
    workers: int | None = 1
    address: str | None = None  # of a Ray cluster; None starts one here
    cpus: float = 1.0  # that Ray reserves per run
    gpus: float = 0.0


ONE_WORKER: Final = EngineChoice()


class Built(NamedTuple):
    """An engine, its name, and the threads per run."""

    engine: Engine
    name: str
    threads: int


def check(choice: EngineChoice, config: RunConfig) -> None:
    """Check that the choice can train `config`.

    Raises:
        ConfigError: it cannot; the message says what to change.
    """
    if choice.name == "ray":
        _check_ray(choice, config)
        return
    ray_only = {
        "address": (choice.address, None),
        "cpus_per_trial": (choice.cpus, 1),
        "gpus_per_trial": (choice.gpus, 0),
    }
    for name, (value, default) in ray_only.items():
        if value != default:
            raise ConfigError(f"{name}={value!r}: only Ray uses it. Add --engine ray.")
    if choice.name == "serial" and (choice.workers or 1) > 1:
        raise ConfigError(f"workers={choice.workers}: engine serial trains one run at a time. Use --engine processes.")
    if choice.name == "gpu" and config.device == "cpu":
        raise ConfigError(
            "engine='gpu': the device is cpu, but this engine needs a GPU. Use --engine processes --workers N, or run "
            "on a machine with a GPU."
        )
    if choice.name == "gpu" and config.split == "folds":
        raise ConfigError("engine='gpu': this engine does not support cross-validation. Use --engine processes.")


def _check_ray(choice: EngineChoice, config: RunConfig) -> None:
    if config.device == "cpu":
        if choice.gpus:
            raise ConfigError(
                f"gpus_per_trial={choice.gpus:g}: the device is cpu, so GPUs would be idle. Start the command on a "
                "machine with a GPU, or leave --gpus-per-trial out."
            )
    elif ":" in config.device:
        raise ConfigError(f"device={config.device!r}: Ray assigns GPUs itself. Use --device cuda.")
    elif not choice.gpus:
        raise ConfigError(
            f"gpus_per_trial=0: training on {config.device} in Ray needs at least a fraction of a GPU. Add "
            "--gpus-per-trial 0.25."
        )


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
    """Return True if this process is likely to train, and should load torch right away.

    `name` is that of an `EngineChoice`; `device` may be `auto`.
    """
    if name != "auto":
        return name != "processes"
    return device != "cpu" and (device != "auto" or any(Path(file).exists() for file in GPU_FILES))


def prepare(choice: EngineChoice) -> None:
    """Check that Ray is installed, and start the server that workers are forked from.

    Call this before anything is created, and before any thread needs a variable that holds a secret.

    Raises:
        ConfigError: Ray is not installed.
        UsageError: a driver cannot join a cluster at that address.
        ServiceUnreachable: the Ray cluster does not answer.
    """
    if choice.name == "ray":
        try:
            from sweeper.engine.ray_cluster import check_cluster
        except ImportError as error:
            raise ConfigError(f"engine='ray': {error}. Install it with: pip install 'ray[default]>=2.40'") from None
        if choice.address is not None:
            check_cluster(choice.address)
    if choice.name in FORKING:
        start_server()


def build(choice: EngineChoice, config: RunConfig, splits: SharedSplits, most: int, *, few: int, warn: Say) -> Built:
    """Build the engine for runs such as `config`, soon after `prepare` has checked the Ray cluster.

    It holds at most `most` runs at a time, and at most `few` if it is one of `MANY`. `warn` prints a warning, for
    example that no node of a cluster has room.

    Raises:
        UsageError: this machine has fewer GPUs than a run in Ray needs.
    """
    choice = resolve(choice, config)
    if choice.name == "processes":
        workers = choice.workers or 1
        threads = max(1, cores() // workers)  # however few runs are left, so that times stay comparable
        return Built(ProcessEngine(splits, max(0, min(workers, most)), threads), choice.name, threads)
    from sweeper.training.images import Data  # and with it torch

    data = [Data.from_arrays(split) for split in splits]
    few = max(1, min(few, most))
    match choice.name:
        case "serial":
            from sweeper.engine.serial import SerialEngine

            return Built(SerialEngine(data, cores()), choice.name, cores())
        case "gpu":
            from sweeper.engine.concurrent import ConcurrentEngine
            from sweeper.training.start import has_captured_step

            if not has_captured_step(config, data[0].spec):
                warn(f"the fast GPU step does not support model {config.model_name}: using the slower plain loop")
            slots = min(choice.workers or SIDE_BY_SIDE, few)
            return Built(ConcurrentEngine(data, config.device, cores(), slots), choice.name, cores())
        case _:
            from sweeper.engine.ray import RayEngine

            engine = RayEngine(data, choice.workers, address=choice.address, cpus=choice.cpus, gpus=choice.gpus,
                               few=few, warn=warn)  # fmt: skip
            return Built(engine, choice.name, max(1, int(choice.cpus)))
