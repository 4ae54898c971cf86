from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.data.fashion import CLASSES, SAMPLE
from sweeper.training.evaluate import ECE_BINS, evaluate, score
from sweeper.training.images import Data, to_input
from sweeper.training.networks import build_model

CONFIG = RunConfig(model="small", placement="bn-dropout", dataset="sample")


def scored_slowly(logits: Tensor, labels: Tensor) -> tuple[float, float, float, list[list[int]]]:
    """NLL, accuracy, ECE and confusion, one image at a time."""
    nll, correct = 0.0, 0
    confusion = [[0] * 10 for _ in range(10)]
    members: list[list[tuple[float, bool]]] = [[] for _ in range(ECE_BINS)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(x - max(row)) for x in row)
        shares = [math.exp(x - max(row)) / total for x in row]
        confidence = max(shares)
        predicted = shares.index(confidence)
        nll += max(row) + math.log(total) - row[label]
        correct += predicted == label
        confusion[label][predicted] += 1
        bin_number = next(b for b in range(ECE_BINS) if confidence <= (b + 1) / ECE_BINS)
        members[bin_number].append((confidence, predicted == label))
    n = len(labels)
    ece = 0.0
    for inside in filter(None, members):
        accuracy = sum(hit for _, hit in inside) / len(inside)
        mean_confidence = sum(confidence for confidence, _ in inside) / len(inside)
        ece += len(inside) / n * abs(accuracy - mean_confidence)
    return nll / n, correct / n, ece, confusion


def drawn(scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(500, 10, generator=generator), torch.randint(0, 10, (500,), generator=generator)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0, 1_000.0])
def test_score_equals_its_slow_reference(scale: float):
    logits, labels = drawn(scale)
    nll, accuracy, ece, confusion = scored_slowly(logits, labels)
    evaluation = score(logits, labels, CLASSES)
    assert evaluation.loss == pytest.approx(nll, rel=1e-5)
    assert evaluation.accuracy == accuracy
    assert evaluation.ece == pytest.approx(ece, abs=1e-5)
    assert evaluation.confusion.tolist() == confusion


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    on_edge = [0.0] * 5 + [-1_000.0] * 5  # confidence 3/15
    below = [0.6] + [0.0] * 9  # confidence 0.168
    logits, labels = torch.tensor([on_edge, below]), torch.tensor([9, 0])
    assert score(logits, labels, CLASSES).ece == pytest.approx(scored_slowly(logits, labels)[2], abs=1e-6)


def test_brier_and_the_confidence_on_errors_are_those_of_their_definitions():
    logits, labels = drawn(2.0)
    brier, confidence = 0.0, []
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(row)) / 500
        if row.index(max(row)) != label:
            confidence.append(max(row))
    found = score(logits, labels, CLASSES)
    assert found.brier == pytest.approx(brier, rel=1e-5)
    assert found.error_confidence == pytest.approx(sum(confidence) / len(confidence), rel=1e-5)


def test_without_errors_there_is_no_confidence_on_them():
    assert math.isnan(score(20 * torch.eye(10), torch.arange(10), CLASSES).error_confidence)


def test_evaluation_leaves_the_model_as_it_was(tiny: Data):
    model = build_model(CONFIG, SAMPLE.spec).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, tiny.val, CONFIG)
    assert "1.running_mean" in before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluation_drops_nothing_and_equals_one_plain_pass(sample: Data):
    model = build_model(CONFIG, SAMPLE.spec).train()
    evaluation = evaluate(model, sample.val, CONFIG)
    with torch.inference_mode():
        logits = model.eval()(to_input(sample.val.pixels, sample.spec))
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits, sample.val.labels).item(), abs=1e-5)
    assert evaluation.accuracy == pytest.approx(score(logits, sample.val.labels, CLASSES).accuracy, abs=2e-3)
    assert int(evaluation.confusion.sum()) == 1_000
