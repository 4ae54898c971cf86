"""The plan of a reproduction: its runs in order, which of them are recorded, and how long the others take."""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.core.errors import StudyConflict
from sweeper.data.fashion import Manifest
from sweeper.engine.choice import ONE_WORKER, EngineChoice
from sweeper.replication.arms import ARMS, PROTOCOLS, Protocol, ProtocolName, arm_config, select, trained_as
from sweeper.replication.runs import outcome
from sweeper.sweep.choose import Chosen
from sweeper.tracking.reading import read_events


@dataclass(frozen=True)
class Options:
    """The options of `sweeper reproduce`."""

    protocol: ProtocolName
    experiments: tuple[int, ...] = ()  # none: all
    only_experiments: bool = False
    seeds: int | None = None  # of every arm; None: the protocol's, of some arms fewer
    engine: EngineChoice = ONE_WORKER
    runs: tuple[tuple[str, int], ...] = ()  # only these arms and seeds, in this order; none: what the others say
    seconds: float | None = None  # nothing is begun after so many


class Planned(NamedTuple):
    """One run of the plan: the key and folder of its record, and its recorded state."""

    arm: str
    config: RunConfig
    key: str
    folder: str
    state: str | None  # complete, diverged, or None: to be trained
    set_aside: bool  # its folder holds a finished run of another configuration


def order(arms: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Arms and seeds as they are trained: all arms with one seed, then with the next.

    The large networks come first, so that no worker is left alone with one at the end. The others follow in
    the order of `ARMS`, each seed beginning elsewhere, so that no arm always runs beside the same others.
    """
    large = [arm for arm in arms if ARMS[arm].base == 8 or ARMS[arm].fields.get("model") == "large"]
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
    protocol = PROTOCOLS[options.protocol]
    asked = select(protocol, options.experiments, options.only_experiments)
    first = trained_as(protocol)
    arms = [arm for arm in first.values() if arm in {first[name] for name in asked}]
    machine = _machine(chosen, protocol)
    _check_same(env.journal, protocol, machine)
    seeds = options.seeds or protocol.seeds
    most = {} if options.seeds else protocol.at_most  # a number that was asked for holds for all arms
    everything = order(list(dict.fromkeys(arms)), seeds)
    asked_for = [(first[arm], seed) for arm, seed in options.runs] or [
        (arm, seed) for arm, seed in everything if seed < most.get(arm, seeds)
    ]
    return [
        _planned(env.journal, protocol, arm, arm_config(arm, protocol, seed, **machine))
        for arm, seed in dict.fromkeys(asked_for)
    ]


def _machine(chosen: Chosen, protocol: Protocol) -> dict[str, Any]:
    """The fields of every run that the machine and the data set decide. A small data set is used whole."""
    fields = chosen.config.model_dump(include={"dataset", "device", "precision"})
    return fields | {"train_images": protocol.train_images if _images(chosen.manifest) > protocol.train_images else 0}


def _images(manifest: Manifest) -> int:
    return manifest.train[1].shape[0]


def _planned(journal: Path, protocol: Protocol, arm: str, config: RunConfig) -> Planned:
    folder = f"{protocol.folder}/{arm}/seed-{config.seed}"
    recipe = config.derive(device=_kind(config.device)).key
    events = read_events(journal / folder)
    known = events[0]["key"] if events else ""
    same = known.endswith(f"/{recipe}")
    done = outcome(events)
    return Planned(
        arm, config, folder=folder, key=known if same else f"{uuid.uuid4().hex}/{recipe}",
        state=done if same else None, set_aside=done is not None and not same,
    )  # fmt: skip


def _kind(device: str) -> str:
    """The kind of device, cpu or cuda; the number of the GPU does not matter."""
    return device.partition(":")[0]


def _check_same(journal: Path, protocol: Protocol, machine: Mapping[str, Any]) -> None:
    """Refuse to mix runs that cannot be compared, or to set aside hours of training for a mistyped option.

    Raises:
        StudyConflict: one line that names the differences.
    """
    folder = journal / protocol.folder
    wanted = {"dataset": machine["dataset"], "precision": machine["precision"], "device": _kind(machine["device"])}
    for path in sorted(folder.glob("*/seed-*/events.jsonl")):
        events = read_events(path.parent)
        if outcome(events) is None or "." in path.parent.name:  # unfinished, or set aside
            continue
        params = events[0]["params"]
        found = {name: _kind(params.get(name, "")) for name in wanted}
        if found != wanted:
            changes = "; ".join(f"{k} was {found[k]!r}, is {v!r}" for k, v in wanted.items() if found[k] != v)
            raise StudyConflict(
                f"{folder} holds runs of another kind ({changes}). Continue with the old options, or set another "
                "SWEEPER_HOME."
            )
