from __future__ import annotations

import pytest
import torch

from sweeper.core.errors import Diverged, OutOfMemory, TrainingError
from sweeper.training.failures import explain


def test_any_error_of_a_training_is_explained_in_one_line():
    explained = explain(ValueError("one\ntwo"))
    assert type(explained) is TrainingError
    assert str(explained) == "ValueError: one two"
    diverged = Diverged("loss")
    assert explain(diverged) is diverged


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    for error in (caught.value, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()):
        assert type(explain(error)) is OutOfMemory
    assert type(explain(RuntimeError("shapes do not match"))) is TrainingError
