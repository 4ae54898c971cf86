"""The options of `sweeper optimize`. No large import here, so that a wrong option is refused immediately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sweeper.core.config import Placement, RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import SpaceError, UsageError
from sweeper.core.names import check_name
from sweeper.data.images import ImageSource
from sweeper.engine.choice import ONE_WORKER, EngineChoice, likely_here
from sweeper.engine.forkserver import FORKING, start_server
from sweeper.study.known import Known, checked, known_experiments, known_in_file
from sweeper.study.space import Space, cells, default_space
from sweeper.study.space_file import parse_varied, read_space
from sweeper.sweep.driver import RETRIES

# Fields that may be both given and varied, as in 0.1.0: a --dropout-switch, say, needs a schedule that switches.
BASE: Final = ("model", "augmentation", "dropout_schedule")


@dataclass(frozen=True)
class SweepOptions:
    """The options of `sweeper optimize`. Creating them checks the name of the study, the search space, and
    that `system_metrics` are measured on the machine that trains.

    `space` varies fields of `config`. The data set, device and precision may be `auto`.

    Raises:
        ConfigError: the name is wrong.
        UsageError: system metrics were asked for of the engine ray.
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
    source: ImageSource | None = None  # the data set, if it has been read already
    device: str = "auto"
    precision: str = "auto"
    engine: EngineChoice = ONE_WORKER
    system_metrics: bool = False  # record the load of this machine each epoch
    metric: str = "auto"  # the name of what is searched for

    def __post_init__(self) -> None:
        check_name(self.study)
        if self.system_metrics and self.engine.name == "ray":
            raise UsageError(
                "--system-metrics measures this machine, but --engine ray trains on others. Leave --system-metrics out."
            )
        self.space.validate(self.config)


def grid_trials(sampler: str, space: Space, config: RunConfig, seeds: int) -> int:
    """Return the number of trials that train every cell of a grid with `seeds` seeds.

    Raises:
        UsageError: the sampler is another one.
        SpaceError: a dimension of the space is a range.
    """
    if sampler != "grid":
        raise UsageError(
            f"--seeds-per-cell {seeds}: only --sampler grid has cells. Add --sampler grid, or use --trials."
        )
    return seeds * len(cells(space, config.placement))


def search_space(
    file: Path | None, placements: Sequence[Placement], varied: Sequence[tuple[str, str]] = (),
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> Space:  # fmt: skip
    """Return the search space: that of a file or the default one, with the dimensions that `--vary` adds.

    Args:
        file: in YAML, or None for the default space.
        placements: those that the network supports.
        varied: the fields and values of `--vary`.
        fixed: the fields that were given, and their values. They leave the default space, with the rates that no
            placement then uses.

    Raises:
        SpaceError: the file is missing, a dimension is wrong, or a field is both given and varied; or nothing is left.
    """
    added = parse_varied(varied).dimensions if varied else {}
    own = read_space(file).dimensions if file else {}
    if twice := [name for name in added if name in own]:
        raise SpaceError(f"--vary {twice[0]}: {file} varies it too. Leave one of them out.")
    if clash := [name for name in (*own, *added) if name in fixed and name not in BASE]:
        option = f"--{clash[0].replace('_', '-')}"
        raise SpaceError(f"{option} fixes a value that {file if clash[0] in own else '--vary'} varies. Leave one out.")
    if not file:
        named = [fixed["placement"]] if "placement" in fixed else placements
        named = added["placement"].extremes() if "placement" in added else named
        kept = [placement for placement in Placement if placement in named]
        own = {name: span for name, span in default_space(kept).dimensions.items() if name not in fixed}
    if not own and not added:
        raise SpaceError("nothing is left to vary. Add --vary, such as --vary lr=1e-4..1e-2:log, or fix fewer fields.")
    return Space({**own, **added})


def known_configurations(
    env: Environment, asked: SweepOptions, *, file: Path | None, study: str | None, top: int, experiments: bool
) -> list[Known]:
    """Return the configurations to train first: of a file, the `top` best of a study, and the article's experiments.

    Args:
        env: whose storage holds `study`, unless it is STUDY@URL.
        asked: the sweep, in whose space they lie.
        file: in YAML or CSV.
        study: take its best configurations.
        top: number of these.
        experiments: take the article's experiments that lie in the space; a line names the others.

    Raises:
        SpaceError: a configuration of the file or the study is outside the space.
        UsageError: there is no such study, or no trial of it is complete.
    """
    known = known_in_file(file, asked.space, asked.config) if file else []
    if study:
        known += _best_of(env, asked, study, top)
    if experiments:
        inside, left_out = known_experiments(asked.space)
        known += inside
        if left_out:
            reasons = "; ".join(f"{number} with {reason}" for number, reason in left_out.items())
            env.say(f"experiments left out: {reasons}")
    return known


def _best_of(env: Environment, asked: SweepOptions, study: str, top: int) -> list[Known]:
    from sweeper.study.reading import best_configurations

    name, _, url = study.partition("@")
    return [
        checked(f"--from {name}, trial {best.trial}", asked.space.params_of(best.config) | dict(best.params),
                asked.space, asked.config)
        for best in best_configurations(name, url or env.storage, top)
    ]  # fmt: skip


def engine_choice(options: Mapping[str, Any]) -> EngineChoice:
    """Return the engine that the options of a command name."""
    return EngineChoice(
        options["engine"], options["workers"], options["address"], options["cpus_per_trial"], options["gpus_per_trial"]
    )


def start_workers(choice: EngineChoice, device: str) -> None:
    """Start importing torch in the process that will train, while this process continues.

    Call it once all options are checked, and before the other modules of a sweep are imported.
    """
    if choice.name in FORKING:
        start_server()
    if likely_here(choice.name, device):
        import sweeper.training.start  # noqa: F401
