"""Data shared by the tests: the embedded sample, and a few hundred of its images."""

from __future__ import annotations

import pytest
import torch

from sweeper.config import RunConfig
from sweeper.data import SAMPLE_DIR, Data, load

torch.set_num_threads(1)  # the tests need no more, and the sums then come out in one order


@pytest.fixture(scope="session")
def sample() -> Data:
    """The embedded sample as `split=holdout` gives it: 6,000 training and 1,000 validation images."""
    return load(RunConfig(dataset="sample"), SAMPLE_DIR)[0]


@pytest.fixture(scope="session")
def tiny(sample: Data) -> Data:
    """300 training and 100 validation images of all ten classes."""
    return Data(sample.train[torch.arange(300)], sample.val[torch.arange(100)])
