"""The plan of a reproduction: its runs in order, which of them are recorded, and how long the others take."""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import Environment
from sweeper.core.errors import StudyConflict
from sweeper.core.images import ImageSpec
from sweeper.core.networks import multiply_adds
from sweeper.core.text import counted
from sweeper.engine.choice import ONE_WORKER, EngineChoice
from sweeper.replication.article import Reproduction
from sweeper.replication.runs import COMPLETE, MACHINE, outcome
from sweeper.sweep.choose import Chosen
from sweeper.tracking.base import THREADS_TAG
from sweeper.tracking.reading import EVENTS, read_events

# Seconds of an image's training are (OVERHEAD + multiply-adds) / SPEED. This fits the times of the medium and the large
# network on 2 cores in fp32 in docs/development/log.md. Its evaluation costs a third.
OVERHEAD: Final = 5e6
SPEED: Final = 2.05e10  # multiply-adds a second on one core


@dataclass(frozen=True)
class Options:
    """The options of `sweeper reproduce`."""

    of: Reproduction
    experiments: tuple[int, ...] = ()  # none: all
    only_experiments: bool = False
    seeds: int | None = None  # of every arm; None: as the protocol says
    engine: EngineChoice = ONE_WORKER
    runs: tuple[tuple[str, int], ...] = ()  # only these arms and seeds, in this order; none: as the other options say
    seconds: float | None = None  # no run starts after this time


class Planned(NamedTuple):
    """One run of the plan: the key and folder of its record, and its recorded state."""

    arm: str
    config: RunConfig
    key: str
    folder: str
    state: str | None  # complete, diverged, or None: to be trained
    set_aside: bool  # its folder holds a finished run of another configuration

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm} seed {self.config.seed}"


def order(of: Reproduction, arms: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Arms and seeds as they are trained: all arms with one seed, then with the next.

    The large networks come first, so that no worker is left alone with one at the end. The others follow in
    the order of the article, each seed beginning elsewhere, so that no arm always runs beside the same others.
    """
    large = [arm for arm in arms if of.config(arm, seed=0).model == "large"]
    others = [arm for arm in arms if arm not in large]
    step = next(step for step in itertools.count(7) if math.gcd(step, len(others)) == 1) if others else 0
    for seed in range(seeds):
        first = step * seed % max(len(others), 1)
        yield from ((arm, seed) for arm in (*large, *others[first:], *others[:first]))


def make_plan(env: Environment, chosen: Chosen, options: Options) -> list[Planned]:
    """Every run that was asked for, in training order.

    Raises:
        StudyConflict: the journal holds runs of another data set, precision or kind of device.
    """
    machine = chosen.config.model_dump(include=set(MACHINE))
    check_same(env.journal, options.of, kind_of(machine))
    return [
        _planned(env.journal, options.of, arm, _config(chosen, options.of, arm, seed, machine))
        for arm, seed in options.runs or _asked(options)
    ]


def _config(chosen: Chosen, of: Reproduction, arm: str, seed: int, machine: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run. A data set smaller than the protocol asks for is used whole."""
    enough = chosen.source.spec.train_images > of.train_images(arm)
    return of.config(arm, seed, **machine, **({} if enough else {"train_images": 0}))


def _asked(options: Options) -> Iterator[tuple[str, int]]:
    """The arms that the options select and their seeds; a number of seeds that was asked for holds for all arms."""
    of = options.of
    seeds = options.seeds or of.protocol.seeds
    most = {} if options.seeds else of.protocol.at_most
    planned = order(of, of.select(options.experiments, options.only_experiments), seeds)
    return ((arm, seed) for arm, seed in planned if seed < most.get(arm, seeds))


def _planned(journal: Path, of: Reproduction, arm: str, config: RunConfig) -> Planned:
    folder = f"{of.folder_of(arm)}/seed-{config.seed}"
    config_key = config.derive(device=kind(config.device)).key
    events = read_events(journal / folder)
    known = events[0]["key"] if events else ""
    same = known.endswith(f"/{config_key}")
    done = outcome(events)
    return Planned(
        arm, config, folder=folder, key=known if same else f"{uuid.uuid4().hex}/{config_key}",
        state=done if same else None, set_aside=done is not None and not same,
    )  # fmt: skip


def kind(device: str) -> str:
    """The kind of device, cpu or cuda; the number of the GPU does not matter."""
    return device.partition(":")[0]


class Kind(NamedTuple):
    """Runs can be compared only if they agree in all of these."""

    dataset: str
    dataset_sha256: str  # empty for FashionMNIST and its sample
    precision: str
    device: str


def kind_of(params: Mapping[str, Any]) -> Kind:
    """The kind of a run with these parameters; empty where they are not recorded."""
    dataset, sha256, precision, device = (params.get(name, "") for name in Kind._fields)
    return Kind(dataset, sha256, precision, kind(device))


def check_same(journal: Path, of: Reproduction, wanted: Kind) -> None:
    """Refuse to mix runs that cannot be compared, or to set aside hours of training for a mistyped option.

    Raises:
        StudyConflict: the journal holds finished runs of another kind.
    """
    folder = journal / of.folder
    for path in sorted(folder.glob(f"*/seed-*/{EVENTS}")):
        events = read_events(path.parent)
        if outcome(events) is None or "." in path.parent.name:  # unfinished, or set aside
            continue
        found = kind_of(events[0]["params"])
        if found != wanted:
            pairs = zip(Kind._fields, found, wanted, strict=True)
            changes = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in pairs if was != now)
            raise StudyConflict(
                f"{folder} holds runs of another kind ({changes}). Continue with the old options, or set another "
                "SWEEPER_HOME."
            )


# --- how long it takes ----------------------------------------------------------------------------------


def cost(config: RunConfig, images: ImageSpec) -> float:
    """Work of a run on the split `test`, in multiply-adds of training; only ratios of costs have a meaning."""
    train = config.train_images or images.train_images
    judged = images.test_images
    count = train + (judged + min(judged, train)) / 3
    return config.epochs * count * (OVERHEAD + multiply_adds(config.model, images))


def forecast(env: Environment, runs: Sequence[Planned], images: ImageSpec) -> tuple[float | None, str]:
    """Seconds that the missing runs will take on all cores, and the basis of the estimate."""
    missing = sum(cost(run.config, images) for run in runs if run.state is None)
    recorded = [run for run in runs if run.state == COMPLETE]
    timed = [(cost(run.config, images), _core_seconds(env.journal / run.folder)) for run in recorded]
    if timed:
        pace = sum(work for work, _ in timed) / sum(seconds for _, seconds in timed)
        return missing / (pace * cores()), f"at the pace of the {counted(len(timed), 'recorded run')}"
    if any(kind(run.config.device) != "cpu" for run in runs):
        return None, "no run on this kind of device is recorded to estimate from"
    source = f"at {SPEED / 1e9:.1f} G multiply-adds a second and core, as in docs/development/log.md"
    return missing / (SPEED * cores()), source


def _core_seconds(folder: Path) -> float:
    """Core seconds of a run: from its last start to its end, times its threads."""
    events = read_events(folder)
    start = [e for e in events if e["event"] == "start"][-1]
    return float((events[-1]["time"] - start["time"]) / 1000 * int(start["tags"].get(THREADS_TAG, 1)))
