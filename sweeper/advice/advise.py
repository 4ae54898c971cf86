"""`sweeper advise`: run the pilot, screening and comparison of placements.

The journal and `advice.json` are the only state. After an interruption, the same command trains the missing runs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from sweeper.advice.budget import budget_of
from sweeper.advice.design import LEVELS, fewest_trainings
from sweeper.advice.pilot import SEEDS, pilot_runs
from sweeper.advice.record import ended_runs, open_record
from sweeper.advice.result import Advice, advice_of
from sweeper.advice.stages import train_stages
from sweeper.advice.summary import record_summary
from sweeper.advice.words import lines
from sweeper.advice.work import FOLDER, Asked, Pace, Question, Work
from sweeper.core.config import Placement
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import Interrupted, UsageError
from sweeper.core.text import counted, duration
from sweeper.data.shared import SharedSplits
from sweeper.data.splits import load
from sweeper.engine.choice import Built, build, check, prepare
from sweeper.sweep.choose import choose
from sweeper.sweep.folder import held
from sweeper.sweep.networks import check_networks, find_network
from sweeper.sweep.progress import make_view
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking


def resolve(env: Environment, asked: Asked) -> Question:
    """Resolve the question of `sweeper advise`, before anything is created.

    Raises:
        UsageError: the network has no placements to compare, or lacks a named one.
        DataError: the images are missing.
    """
    if env.tracking_uri == NONE:
        raise UsageError("--tracking-uri none: sweeper advise needs recorded runs. Use --tracking-uri offline.")
    if asked.register and env.tracking_uri == OFFLINE:
        raise UsageError("--register needs an MLflow store. Leave --tracking-uri offline out.")
    network = find_network(env, asked.config, asked.dataset, {})
    chosen = choose(env, network.config, asked.dataset, asked.device, asked.precision, network.source)
    found = network.placements
    if found == (Placement.OWN,):
        raise UsageError(
            f"{chosen.config.model_name} places its own layers, so there is nothing to compare. Give it a parameter "
            "`layers`, as docs/how-to/own-network.md shows."
        )
    if unfit := [each.value for each in asked.placements if each not in found]:
        raise UsageError(f"--placements {unfit[0]}: the network does not support it. Use {', '.join(found)}.")
    placements = tuple(each for each in found if each in asked.placements) if asked.placements else found
    if len(placements) < 2:
        raise UsageError("--placements: name two or more, or leave it out to compare all.")
    fewest = fewest_trainings(placements, SEEDS)
    if asked.trainings is not None and asked.trainings < fewest:
        raise UsageError(
            f"--trainings {asked.trainings}: comparing {counted(len(placements), 'placement')} takes at least {fewest}."
        )
    return Question(asked, chosen, placements)


def advise(env: Environment, question: Question) -> Advice:
    """Train the runs that the question needs and that are not recorded yet, and return the answer.

    Raises:
        StudyConflict: it was started with other settings, or another command is training it; nothing was created.
        UsageError: the budget is too short.
        StudyIncomplete: runs failed.
    """
    asked, chosen = question.asked, question.chosen
    images = SharedSplits(load(question.base, chosen.source))
    configs = [run.configuration(question.base) for run in pilot_runs(question.placements)]
    check(asked.engine, configs[0])
    check_networks([configs[0].derive(placement=each) for each in question.placements], chosen.source.spec)
    prepare(asked.engine)
    folder = env.journal / (FOLDER + asked.name)
    with held(folder):
        record = open_record(folder, question.settings(), question.limits)
        try:
            with Signals() as signals, _engine(env, question, images) as engine, tracking(env, signals) as tracker:
                tracker.reconcile(folder.name)
                tracker.catch_up(folder.name)
                progress = Pace(target=len(configs), unit="run")
                view = make_view(progress, env)
                try:
                    ended = {each.run: each for each in ended_runs(folder, record)}
                    budget = budget_of(record, ended.values(), asked.budget)
                    work = Work(
                        env, question, folder, record, images, tracker, signals, engine, view, progress, budget, ended
                    )
                    found = train_stages(work)
                finally:
                    view.close()
                advice = advice_of(question, record, work.ended, found, images)
                with signals.raised():
                    advice = record_summary(env, question, record, advice, tracker, signals)
        except Interrupted:
            env.warn("sweeper advise was interrupted. Run the same command again to continue it.")
            raise
    for line in lines(advice, shutil.get_terminal_size().columns):
        env.say(line)
    return advice


def dry_run(env: Environment, question: Question) -> dict[str, Any]:
    """Print what would be trained, and return the JSON that `--json` prints."""
    asked, placements = question.asked, question.placements
    fewest = fewest_trainings(placements, SEEDS)
    rates = ", ".join(f"{conv:g} / {head:g}" for conv, head in LEVELS)
    limit = f"{asked.trainings} runs" if asked.trainings else duration(asked.budget)
    spec = question.chosen.source.spec
    images = f"{spec.name} ({spec.train_images:,} training images, {len(spec.classes)} classes)"
    env.say(f"{question.base.model_name} on {images}")
    env.say(f"placements: {', '.join(placements)}")
    pilot = f"{counted(len(pilot_runs(placements)), 'run')} of {counted(question.base.epochs, 'epoch')}"
    env.say(f"pilot: {pilot}" + ("" if asked.epochs else " at most; they decide how long the other runs are"))
    env.say(
        f"screening: conv / head rates {rates}, learning rates around {question.base.lr:g}; then proposals of a model"
    )
    env.say(f"comparison: 3 to 40 fresh seeds per placement; at least {fewest} runs, at most {limit}")
    return {
        "placements": [each.value for each in placements], "fewest_trainings": fewest, "budget": asked.budget,
        "trainings": asked.trainings, "epochs": asked.epochs,
    }  # fmt: skip


@contextlib.contextmanager
def _engine(env: Environment, question: Question, images: SharedSplits) -> Iterator[Callable[[], Built]]:
    """Yield a function that builds the engine when it is first needed; it is closed at the end of the block."""
    built: list[Built] = []

    def engine() -> Built:
        if not built:
            fewest = fewest_trainings(question.placements, SEEDS)
            built.append(build(question.asked.engine, question.base, images, fewest, few=fewest, warn=env.warn))
        return built[0]

    try:
        yield engine
    finally:
        for each in built:
            each.engine.close()
