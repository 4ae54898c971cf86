"""The pruners answer as Optuna's do, which read every trial each time."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.study.pruning import PRUNERS, STARTUP, WARM_UP, Nothing, quantile

REFERENCES = {
    "percentile": optuna.pruners.PercentilePruner(75.0, STARTUP, WARM_UP),
    "median": optuna.pruners.MedianPruner(STARTUP, WARM_UP),
    "none": optuna.pruners.NopPruner(),
}
ACCURACY = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 1))
CURVES = st.lists(st.lists(ACCURACY, max_size=7), max_size=14)


@pytest.mark.parametrize("name", PRUNERS)
@settings(max_examples=150, deadline=None)
@given(curves=CURVES)
def test_each_trial_is_judged_at_each_epoch_as_by_optuna(name: str, curves: list[list[float]]) -> None:
    """Each curve is that of a trial which goes on while both let it, and is complete if it reaches its end."""
    study = optuna.create_study(direction="maximize", pruner=REFERENCES[name])
    pruner = PRUNERS[name]()
    for curve in curves:
        trial, values = study.ask(), dict[int, float]()
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
            values[epoch] = value
            pruned = trial.should_prune()
            assert pruner.prunes(values) == pruned
            if pruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, 0.5)
            pruner.complete(values)


@pytest.mark.parametrize("share", [0.25, 0.5])
@settings(max_examples=300)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_quantile_is_that_of_numpy_to_the_last_bit(share: float, values: list[float]) -> None:
    assert quantile(sorted(values), share) == float(np.quantile(np.array(values), share))


def test_nothing_is_pruned_without_a_value() -> None:
    assert not PRUNERS["percentile"]().prunes({})
    assert not Nothing().prunes({1: 0.0})
