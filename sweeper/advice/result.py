"""The result as values: ranking, answers and recommendation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sweeper.advice.answers import Answer, answers
from sweeper.advice.comparison import SMALL, Arm, Difference, mean_interval
from sweeper.advice.design import Cell, Run
from sweeper.advice.record import Ended, Record, busy_seconds
from sweeper.advice.rounds import State
from sweeper.core.config import RunConfig
from sweeper.core.errors import StudyIncomplete
from sweeper.core.images import ImageSpec
from sweeper.core.placements import Placement
from sweeper.core.text import counted
from sweeper.engine.aside import call
from sweeper.sweep.describe import git_tags

if TYPE_CHECKING:
    import pandas as pd

    from sweeper.advice.work import Question as Asked
    from sweeper.data.shared import SharedSplits

MEASURES: Final = {  # of a run, by their names in its record
    "loss": "final/val_loss", "ece": "final/val_ece", "shift": "xray/variance_shift",
    "signed": "xray/variance_shift_signed", "gain": "xray/recalibration_gain_accuracy",
}  # fmt: skip


class Row(NamedTuple):
    """A placement in the ranking. Accuracies are of the validation images, in [0, 1]; the interval is of one mean."""

    placement: Placement
    cell: Cell | None
    accuracy: float
    low: float
    high: float
    seeds: int
    behind: Difference | None  # the best less this one; None for the best, and where it was not compared at any look
    more_seeds: int | None  # of each, that would show a difference from the best
    measures: Mapping[str, float]  # means over the seeds: loss, ece, train_loss, epoch_s, of the X-ray; activations_mb
    curves: Sequence[Sequence[float]]  # accuracy after each epoch, of each seed
    diverged: int  # the look at which a seed had diverged; 0: none

    @property
    def verdict(self) -> str:
        """The conclusion about it, in words."""
        if self.cell is None or self.diverged:
            return "it diverged"
        if self.behind is None:
            return "the recommendation" if self.seeds else "not compared: no time"
        points = f"{100 * self.behind.estimate:.1f} points [{100 * self.behind.low:.1f}, {100 * self.behind.high:.1f}]"
        if self.behind.low > 0:
            return f"worse than 1 by {points}"
        if self.behind.small:
            return f"equal to 1, within {100 * SMALL:g} points"
        more = f": {counted(self.more_seeds, 'more seed')} would" if self.more_seeds else ""
        return f"not told apart from 1{more}"


@dataclass(frozen=True)
class Advice:
    """The answer of `sweeper advise`.

    Attributes:
        name: of the advice.
        network: as it was named.
        images: as they were named.
        counts: numbers of training images, validation images and classes.
        rows: the placements, the best first.
        answers: to the standard questions.
        configuration: the recommended one.
        trainings: number of all runs.
        seconds: during which at least one of them was training.
        drawing, code: the blocks of the recommended network: one line each, and the code that builds them.
        provenance: SHA-256 of the images, and the commit of sweeper if it is in a checkout.
        test: metrics of the recommendation on the test images; empty if it was not evaluated.
        report: the page; empty until it is written.
    """

    name: str
    network: str
    images: str
    counts: tuple[int, int, int]
    rows: Sequence[Row]
    answers: Sequence[Answer]
    configuration: RunConfig
    epochs: int
    trainings: int
    seconds: float
    complete: bool
    drawing: str
    code: str
    provenance: Mapping[str, str]
    test: Mapping[str, float]
    report: str = ""

    @property
    def best(self) -> Row:
        """The recommended placement."""
        return self.rows[0]

    def ranking(self) -> pd.DataFrame:
        """Return one row per placement, best first."""
        import pandas as pd

        return pd.DataFrame(self.plain()["ranking"])

    def plain(self) -> dict[str, Any]:
        """Return the advice as JSON; unknown numbers are left out."""
        ranking = [
            {"placement": row.placement.value, "accuracy": row.accuracy, "low": row.low, "high": row.high,
             "seeds": row.seeds, "verdict": row.verdict, **(row.cell.params() if row.cell else {}), **row.measures}
            for row in self.rows
        ]  # fmt: skip
        return {
            "advice": self.name, "network": self.network, "images": self.images, "epochs": self.epochs,
            "trainings": self.trainings, "seconds": self.seconds, "complete": self.complete,
            "recommendation": self.configuration.to_params(), "drawing": self.drawing, "code": self.code,
            "provenance": dict(self.provenance),
            "test": dict(self.test), "report": self.report,
            "ranking": [{name: value for name, value in row.items() if value == value} for row in ranking],
            "answers": [answer._replace(difference=None)._asdict() | (answer.difference._asdict() if answer.difference
                        else {}) for answer in self.answers],
        }  # fmt: skip


def advice_of(
    question: Asked, record: Record, ended: Mapping[Run, Ended], found: State, images: SharedSplits
) -> Advice:  # fmt: skip
    """Return the advice that follows from the runs.

    Raises:
        StudyIncomplete: all placements but one diverged.
    """
    comparison = found.comparison
    if not comparison.looks or record.plan is None:
        raise StudyIncomplete("fewer than two placements finished training. Try a smaller --lr.")
    base, spec = question.base.derive(epochs=record.plan.epochs), question.chosen.source.spec
    trained = {placement: cell.configuration(base) for placement, cell in found.cells.items() if cell}
    best = trained[Placement(comparison.best)]
    activations, drawing, code = call(_shown, trained, best, spec)
    rows = ranking(found, ended, activations)
    counted_runs = list(ended.values())
    return Advice(
        name=question.asked.name, network=base.model_name, images=spec.name.rpartition("/")[2],
        counts=(len(images[0].train), len(images[0].val), len(spec.classes)), rows=rows,
        answers=answers(comparison, {row.placement.value: row.measures for row in rows}),
        configuration=best, epochs=record.plan.epochs,
        trainings=len(counted_runs),
        seconds=busy_seconds(counted_runs),
        complete=not found.missing, drawing=drawing, code=code,
        provenance={name.rpartition(".")[2]: value for name, value in git_tags().items()}
                   | {"dataset_sha256": spec.sha256}, test={},
    )  # fmt: skip


def _shown(
    trained: Mapping[Placement, RunConfig], best: RunConfig, images: ImageSpec
) -> tuple[dict[Placement, float], str, str]:  # fmt: skip
    """In the helper process: MB of activations of each network, drawing and code of the best."""
    from sweeper.training.activations import activation_bytes
    from sweeper.training.networks.drawn import drawing

    return {each: activation_bytes(config, images) / 1e6 for each, config in trained.items()}, *drawing(best, images)


def ranking(found: State, ended: Mapping[Run, Ended], activations: Mapping[Placement, float]) -> list[Row]:
    """Return the placements that are compared, the best first. `activations` are MB of each, as far as known."""
    comparison, best = found.comparison, found.comparison.best
    seen = {arm for look in comparison.looks for arm in look.values} | found.diverged.keys()
    rows = []
    for placement, cell in found.cells.items():
        arm = placement.value
        known = sorted(ended.items()) if arm in seen else []
        runs = [each for run, each in known if run.stage == "comparison" and run.cell == cell]
        complete = [each for each in runs if each.complete]
        values = [each.final["final/val_accuracy"] for each in complete]
        behind = comparison.between(best, arm) if arm != best else None
        measures = _measures(complete) if complete else {}
        if complete and placement in activations:
            measures["activations_mb"] = activations[placement]
        rows.append(
            Row(placement, cell, fmean(values) if values else math.nan, *mean_interval(values), len(values), behind,
                comparison.more_seeds(best, arm) if behind else None, measures,
                [[epoch["val/accuracy"] for epoch in each.epochs] for each in complete], found.diverged.get(arm, 0))
        )  # fmt: skip
    return sorted(rows, key=lambda row: _rank(row, best))


def _rank(row: Row, best: Arm) -> tuple[bool, bool, bool, float]:
    lost = row.cell is None or bool(row.diverged)
    return row.placement.value != best, lost, not row.seeds, row.behind.estimate if row.behind else 0.0


def _measures(runs: Sequence[Ended]) -> dict[str, float]:
    values = {name: [run.final[key] for run in runs if key in run.final] for name, key in MEASURES.items()}
    values["train_loss"] = [run.epochs[-1]["train/loss"] for run in runs]
    values["epoch_s"] = [median(epoch["time/epoch_s"] for epoch in run.epochs) for run in runs]
    return {name: fmean(each) for name, each in values.items() if each}
