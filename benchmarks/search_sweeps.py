"""Sweeps of a response, one a sampler, response and repetition, kept in files so that none runs twice."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.search_responses import response
from sweeper.core.config import Placement, RunConfig
from sweeper.core.files import write_whole
from sweeper.study.samplers import Whole, make_sampler
from sweeper.study.space import Choice, Space, default_space

BUDGET: Final = 65  # trainings
FINALISTS: Final = 5
SEEDS: Final = 3
SEARCH: Final = BUDGET - FINALISTS * SEEDS  # trainings before those of the finalists
FIRST: Final = 1_000  # repetition: lower ones were for choosing what is compared
SPACE: Final = default_space()
BASE: Final = RunConfig(dataset="sample")
COARSE: Final = Space({  # 40 cells
    "placement": SPACE.dimensions["placement"], "conv_dropout": Choice((0.1, 0.3)), "head_dropout": Choice((0.2, 0.4)),
    "batch_size": Choice((64, 256)),
})  # fmt: skip
Tried = list[tuple[dict[str, Any], float]]  # parameters and value of each training, in order


class Padded(Whole):
    """An Optuna sampler on the joint space: each trial is given random rates where its placement has none."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, number: int) -> None:
        super().__init__(SPACE, Placement.NONE, seed, number)
        self._inner = make(seed * 1_000_003 + number)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what the inner sampler asks in a study of the padded trials."""
        del trial
        padded = optuna.create_study(direction="maximize", sampler=self._inner)
        for each in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            rates = np.random.default_rng([self._seed, each.number]).random((1, len(self._grid.names)))
            missing = {name: self._draw(name, rates[0, i]) for i, name in enumerate(self._grid.names)}
            padded.add_trial(create_trial(params=missing | each.params, distributions=search_space, value=each.value))
        return padded.ask(search_space).params

    def _draw(self, name: str, share: float) -> Any:
        dimension = SPACE.dimensions[name]
        return dimension.values[0] if isinstance(dimension, Choice) else dimension.low + share * (
            dimension.high - dimension.low
        )  # fmt: skip


SAMPLERS: Final[dict[str, Callable[[int, int], BaseSampler]]] = {  # of a repetition and a number
    "plain Optuna": lambda seed, number: TPESampler(seed=seed * 1_000_003 + number),
    "random": lambda seed, number: RandomSampler(seed * 1_000_003 + number),
    "qmc": lambda seed, number: make_sampler("qmc", seed, number, SPACE),
    "grid of 40": lambda seed, number: make_sampler("grid", seed, number, COARSE),
    "tpe": lambda seed, number: make_sampler("tpe", seed, number, SPACE),
    "tpe, padded": lambda seed, number: Padded(lambda own: TPESampler(seed=own, multivariate=True), seed, number),
    "gp": lambda seed, number: make_sampler("gp", seed, number, SPACE),
    "Optuna's gp": lambda seed, number: make_sampler("gp", seed, number),
    "Optuna's gp, padded": lambda seed, number: Padded(lambda own: GPSampler(seed=own), seed, number),
}
USUAL: Final = [name for name in SAMPLERS if not name.startswith("Optuna's")]  # these take seconds a sweep


def draws(repetition: int, part: int, size: int) -> npt.NDArray[np.float64]:
    """Return standard normal draws, the same for every sampler. Part 0 is the search's, 1 the finalists'."""
    return np.random.default_rng([repetition, part]).normal(size=size)


def sweep(sampler: str, name: str, repetition: int, at_once: int = 1) -> Tried:
    """Return the trainings of one sweep, with so many in flight; the first to begin ends first.

    A configuration that comes again is trained with another seed.
    """
    luck, truth = draws(repetition, 0, BUDGET), response(name)
    tried: Tried = []
    study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    space = COARSE if sampler == "grid of 40" else SPACE
    running: deque[tuple[optuna.Trial, float]] = deque()
    for number in range(BUDGET):
        if len(running) == at_once:
            study.tell(*running.popleft())
        study.sampler = SAMPLERS[sampler](repetition, number)
        trial = study.ask()
        space.suggest(BASE, trial)
        value = truth.trained(trial.params, float(luck[number]))
        running.append((trial, value))
        tried.append((dict(trial.params), value))
    return tried


def recorded_sweep(folder: Path, sampler: str, name: str, repetition: int, at_once: int = 1) -> Tried:
    """Return a sweep from its file; run it where there is none."""
    beside = f"-{at_once}-at-once" if at_once > 1 else ""
    path = folder / (sampler.replace(" ", "-") + beside) / name.replace(" ", "-") / f"{repetition}.json"
    if not path.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna's experimental samplers
            found = sweep(sampler, name, repetition, at_once)
        write_whole(path, json.dumps(found).encode())
    return [(params, value) for params, value in json.loads(path.read_text())]
