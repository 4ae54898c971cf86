"""The options of `sweeper optimize`. Nothing large is imported here, so that a wrong option is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.core.config import RunConfig, check_name
from sweeper.engine.choice import ONE_WORKER, EngineChoice, likely_here
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.study.space import Space, default_space
from sweeper.study.space_file import read_space
from sweeper.sweep.driver import RETRIES


@dataclass(frozen=True)
class SweepOptions:
    """The options of `sweeper optimize`. Creating them checks the name of the study and the search space.

    `space` varies fields of `config`. The data set, device and precision may be `auto`.

    Raises:
        ConfigError: the name is wrong.
        SpaceError: a part of the space could not be trained.
    """

    config: RunConfig
    space: Space
    trials: int
    study: str = "sweep"
    sampler: str = "auto"
    pruner: str = "auto"
    timeout: float | None = None
    retries: int = RETRIES
    one_seed: bool = False
    finalists: int | None = None  # None: as many as is usual for this number of trials
    finalist_seeds: int = 3
    final: bool = True
    dataset: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    engine: EngineChoice = ONE_WORKER

    def __post_init__(self) -> None:
        check_name(self.study)
        self.space.validate(self.config)


def search_space(file: Path | None) -> Space:
    """Read the search space from a file, or return the default one.

    Raises:
        SpaceError: the file is missing or holds no search space.
    """
    return read_space(file) if file else default_space()


def engine_choice(options: Mapping[str, Any]) -> EngineChoice:
    """Return the engine that the options of a command name."""
    return EngineChoice(
        options["engine"], options["workers"], options["address"], options["cpus_per_trial"], options["gpus_per_trial"]
    )


def start_workers(choice: EngineChoice, device: str) -> None:
    """Start importing torch where the trainings will be, while this process goes on.

    Call it once all options are checked, and before the other modules of a sweep are imported.
    """
    if choice.name in FORKING:
        start_server()
    if likely_here(choice.name, device):
        import sweeper.training.start  # noqa: F401
