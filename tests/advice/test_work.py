"""The progress of an advice."""

from __future__ import annotations

from sweeper.advice.work import Pace
from sweeper.core.config import RunConfig
from sweeper.core.trial import Trial


def test_a_training_that_was_stopped_early_is_called_stopped() -> None:
    pace = Pace(target=2, unit="run", names={0: "screening bn"})
    trial = Trial(0, RunConfig())
    pace.started(trial)
    pace.ended(trial, "pruned", 0.1)
    assert (pace.word("pruned"), pace.word("complete")) == ("stopped", "complete")
    assert pace.summary().startswith("1/2 runs finished, 1 stopped")
