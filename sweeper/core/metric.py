"""The metrics of the validation images that a study can search for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sweeper.core.errors import StudyConflict

if TYPE_CHECKING:
    from sweeper.core.results import EpochResult


@dataclass(frozen=True)
class Metric:
    """A metric of the validation images, measured each epoch.

    Attributes:
        name: of an epoch's value in MLflow.
        direction: of what is better, in Optuna's words.
        noun: for people.
        unit: "%" if reports show the value as percent; empty or a unit's name if as a plain number.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    noun: str
    unit: str = ""

    @property
    def key(self) -> str:
        """The name of its field in `EpochResult` and of its column in a file: val_accuracy."""
        return self.name.replace("/", "_")

    @property
    def final(self) -> str:
        """The name of the last epoch's value in MLflow: final/val_accuracy."""
        return f"final/{self.key}"

    @property
    def test(self) -> str:
        """The name of a champion's value on the test images in MLflow: test/accuracy."""
        return self.name.replace("val/", "test/")

    @property
    def goal(self) -> str:
        """The direction and the name, as a study records them."""
        return f"{self.direction} {self.name}"

    @property
    def label(self) -> str:
        """The short name for people: val accuracy."""
        return f"val {self.noun}"

    @property
    def words(self) -> str:
        """The full name for people: validation accuracy."""
        return f"validation {self.noun}"

    @property
    def maximized(self) -> bool:
        """True if more is better."""
        return self.direction == "maximize"

    @property
    def with_others(self) -> tuple[Metric, ...]:
        """The metric, then accuracy and loss, each once: what is shown of a trial."""
        return tuple(dict.fromkeys((self, ACCURACY, LOSS)))

    def of(self, epoch: EpochResult) -> float:
        """Return its value in an epoch."""
        return float(getattr(epoch, self.key))

    def cost(self, value: float) -> float:
        """Return a number that is less the better the value is, to sort by."""
        return -value if self.maximized else value


ACCURACY: Final = Metric("val/accuracy", "maximize", "accuracy", "%")  # in [0, 1]
LOSS: Final = Metric("val/loss", "minimize", "loss", "nats")  # mean negative log-likelihood
ECE: Final = Metric("val/ece", "minimize", "ECE")  # expected calibration error, in [0, 1]
METRICS: Final = {metric.name: metric for metric in (ACCURACY, LOSS, ECE)}


def metric_of(settings: Mapping[str, Any]) -> Metric:
    """Return the metric that a study with these recorded settings searches for: accuracy if they name none.

    Raises:
        StudyConflict: this version does not know it.
    """
    goal = settings.get("direction", ACCURACY.goal)
    for metric in METRICS.values():
        if metric.goal == goal:
            return metric
    raise StudyConflict(
        f"the study optimizes {goal!r:.60}, but this version of sweeper only {', '.join(METRICS)}. Use the version "
        "that created the study."
    )
