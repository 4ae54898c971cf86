from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError, Diverged, TrainingError
from sweeper.core.images import CLASSES
from sweeper.core.results import EpochResult, Training, TrainResult
from sweeper.data.splits import fold
from sweeper.training.batches import batches
from sweeper.training.device import resolve_device, resolve_precision
from sweeper.training.evaluate import ECE_BINS, evaluate, predict_weights, score
from sweeper.training.failures import explain, out_of_memory
from sweeper.training.folds import cross_validate, finish
from sweeper.training.images import Data, normalize
from sweeper.training.loop import train
from sweeper.training.network import build_model
from sweeper.training.optimizer import learning_rate
from sweeper.training.start import training as start
from tests.support.tensors import tensors


def quick(**changes: Any) -> RunConfig:
    """A small network with every source of randomness, for two epochs."""
    fields = {"model": "small", "epochs": 2, "batch_size": 64, "augmentation": "crop-flip-erase", "dataset": "sample"}
    return RunConfig.create(**fields | changes)


def epochs_and_result(training: Training) -> tuple[list[EpochResult], TrainResult]:
    epochs = []
    while True:
        try:
            epochs.append(next(training))
        except StopIteration as stop:
            return epochs, stop.value


def refusal(error: type[Exception], function: Any, *args: Any) -> str:
    """The message of the error that the call raises; always one line."""
    with pytest.raises(error) as caught:
        function(*args)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- a pure function that yields ----------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_yields_one_result_an_epoch_and_ends_in_a_train_result(tiny: Data, epochs: int):
    yielded, result = epochs_and_result(train(quick(epochs=epochs), tiny))
    assert [e.epoch for e in yielded] == list(range(1, epochs + 1))
    assert result.history == tuple(yielded)
    assert result.fold_accuracies == ()
    assert all(e.images_per_s * e.epoch_s == pytest.approx(300) for e in yielded)


@pytest.mark.parametrize("changes", [{}, {"placement": "ic"}, {"precision": "bf16"}], ids=str)
def test_the_same_configuration_trains_to_the_same_bits(tiny: Data, changes: dict[str, str]):
    torch.manual_seed(1)
    one = finish(train(quick(**changes), tiny))
    torch.manual_seed(2)  # torch's own generator has no part in it
    two = finish(train(quick(**changes), tiny))
    assert one.history_sha256 == two.history_sha256
    assert one.weights_sha256 == two.weights_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"augmentation": "none"},
        {"head_dropout": 0.31},
        {"lr": 1.01e-3},
        {"batch_size": 63},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_another_configuration_trains_to_another_result(tiny: Data, change: dict[str, Any]):
    one, two = (finish(train(config, tiny)) for config in (quick(), quick(**change)))
    assert one.history_sha256 != two.history_sha256
    assert one.weights_sha256 != two.weights_sha256


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"placement": "dropout"}, {"placement": "none"}),
        ({"placement": "bn-dropout"}, {"placement": "bn"}),
        ({"placement": "bn-dropout", "head_dropout": 0.3}, {"placement": "bn-head-dropout", "head_dropout": 0.3}),
        ({"placement": "dropout-bn", "head_dropout": 0.3}, {"placement": "bn-head-dropout", "head_dropout": 0.3}),
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_configurations_with_one_key_train_to_the_same_history(tiny: Data, one: dict[str, Any], two: dict[str, Any]):
    absent = {"conv_dropout": 0, "head_dropout": 0, "epochs": 1}
    first, second = quick(**absent | one), quick(**absent | two)
    assert first.key == second.key
    assert finish(train(first, tiny)).history_sha256 == finish(train(second, tiny)).history_sha256


def test_trainings_advanced_in_turn_do_not_touch_each_other(tiny: Data):
    configs = [quick(seed=0), quick(seed=1)]
    alone = [finish(train(config, tiny)) for config in configs]
    trainings = [train(config, tiny) for config in configs]
    for _ in range(2):
        for training in trainings:
            next(training)
            torch.rand(7)  # nor does it matter who else draws from torch's own generator
    results = [epochs_and_result(training)[1] for training in trainings]
    assert [r.history_sha256 for r in results] == [r.history_sha256 for r in alone]
    assert [r.weights_sha256 for r in results] == [r.weights_sha256 for r in alone]


def test_the_global_generator_is_as_it_was_whenever_the_caller_has_control(tiny: Data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    training = train(quick(), tiny)
    for _ in range(2):
        next(training)
        assert torch.equal(torch.get_rng_state(), before)
    finish(training)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_as_it_was_after_a_run_that_diverged(tiny: Data):
    before = torch.get_rng_state()
    refusal(Diverged, finish, train(quick(lr=1e5), tiny))
    assert torch.equal(torch.get_rng_state(), before)


def test_closing_a_training_stops_it(tiny: Data):
    training = train(quick(epochs=100), tiny)
    next(training)
    training.close()
    assert list(training) == []


def test_training_leaves_the_data_as_they_were(tiny: Data):
    pixels = [images.pixels.clone() for images in (tiny.train, tiny.val)]
    finish(train(quick(epochs=1), tiny))
    assert all(torch.equal(a, b.pixels) for a, b in zip(pixels, (tiny.train, tiny.val), strict=True))


def test_the_last_epoch_judges_the_weights_that_are_returned(tiny: Data):
    config = quick()
    result = finish(train(config, tiny))
    model, logits = predict_weights(config, result.weights, tiny.val)
    on_val = score(logits, tiny.val.labels)
    last = result.history[-1]
    assert on_val.loss == pytest.approx(last.val_loss, abs=1e-5)
    assert (on_val.accuracy, result.evaluation.accuracy) == (last.val_accuracy, last.val_accuracy)
    assert on_val.confusion.tolist() == result.evaluation.confusion.tolist()
    on_train = evaluate(model, tiny.train[torch.arange(0, 300, 3)], config)  # as many as in val, clean, evenly spread
    assert on_train.loss == pytest.approx(last.train_loss, abs=1e-5)
    assert on_train.accuracy == last.train_accuracy


Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The batches that trainings take, in order."""
    taken: Batches = []

    def spy(*args: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(*args):
            taken.append(batch)
            yield batch

    monkeypatch.setattr("sweeper.training.loop.batches", spy)
    return taken


def test_each_epoch_has_an_order_of_its_own(tiny: Data, seen: Batches):
    finish(train(quick(batch_size=300), tiny))
    (_, first), (_, second) = seen
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_training_equals_a_plain_loop_over_the_same_batches(tiny: Data, seen: Batches):
    config = quick(placement="bn", batch_size=32, schedule="onecycle", lr=1e-4, weight_decay=0.1)
    initial = tensors(finish(train(config.derive(lr=1e-300, epochs=1), tiny)))  # its steps are too small to count
    seen.clear()
    history = finish(train(config, tiny)).history

    model = build_model(config)
    model.load_state_dict(initial)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    groups = [{"params": [p], "weight_decay": 0.1 if p.dim() > 1 else 0.0} for p in model.parameters()]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    assert len(seen) == 20
    for epoch in (0, 1):
        model.train()
        norms = []
        for step in range(10 * epoch, 10 * epoch + 10):
            pixels, labels = seen[step]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, 20)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normalize(pixels)), labels).backward()
            norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)))
            optimizer.step()
        model.eval()
        with torch.no_grad():
            val = score(model(normalize(tiny.val.pixels)), tiny.val.labels)
        assert history[epoch].val_loss == pytest.approx(val.loss, rel=2e-5)
        assert history[epoch].grad_norm == pytest.approx((norms[0] + norms[8]) / 2, rel=1e-3)


def test_a_last_batch_of_one_image_trains_with_batch_norm(sample: Data):
    data = Data(sample.train[torch.arange(65)], sample.val[torch.arange(20)])
    assert len(finish(train(quick(placement="ic", batch_size=64), data)).history) == 2


def test_one_epoch_of_the_small_network_learns_the_sample(sample: Data):
    result = finish(train(RunConfig(model="small", placement="bn-head-dropout", epochs=1, dataset="sample"), sample))
    assert result.history[0].val_accuracy > 0.6


@pytest.mark.parametrize("lr", [1e5, 1e30], ids=["large loss", "no finite logit"])
@pytest.mark.parametrize("placement", ["none", "bn"])
def test_a_huge_learning_rate_diverges_and_the_message_says_where(tiny: Data, lr: float, placement: str):
    message = refusal(Diverged, finish, train(quick(lr=lr, placement=placement), tiny))
    assert "after epoch 1" in message
    assert f"lr={lr:.4g}" in message
    assert f"placement={placement}" in message


# --- the optimizer -----------------------------------------------------------------------------------


def test_weight_decay_pulls_matrices_and_nothing_else(tiny: Data):
    config = quick(placement="bn", epochs=1, weight_decay=1_000)  # times lr: all of a weight, at every step
    weights = tensors(finish(train(config, tiny)))
    plain = tensors(finish(train(config.derive(weight_decay=0), tiny)))
    trained = {name: w for name, w in weights.items() if name.endswith(("weight", "bias"))}
    for name, weight in trained.items():
        if weight.dim() > 1:
            assert weight.abs().max() < 0.01
            assert plain[name].abs().max() > 0.02
        else:
            assert (weight - plain[name]).abs().max() < 0.02  # five steps of about lr each
    assert {w.dim() for w in trained.values()} == {1, 2, 4}


CONSTANT, COSINE, ONECYCLE = "constant", "cosine", "onecycle"


@pytest.mark.parametrize(
    ("schedule", "at", "share"),
    [
        (CONSTANT, 0, 1),
        (CONSTANT, 999, 1),
        (COSINE, 0, 1),
        (COSINE, 250, (1 + math.sqrt(0.5)) / 2),
        (COSINE, 500, 1 / 2),
        (COSINE, 750, (1 - math.sqrt(0.5)) / 2),
        (COSINE, 1_000, 0),
        (ONECYCLE, 0, 1 / 25),
        (ONECYCLE, 150, 13 / 25),
        (ONECYCLE, 300, 1),
        (ONECYCLE, 650, 1 / 2),
        (ONECYCLE, 1_000, 0),
    ],
)
def test_the_learning_rate_at_known_points(schedule: str, at: int, share: float):
    assert learning_rate(quick(schedule=schedule, lr=0.02), at, 1_000) == pytest.approx(0.02 * share, abs=1e-12)


def test_onecycle_rises_then_falls():
    rates = [learning_rate(quick(schedule=ONECYCLE), step, 1_000) for step in range(1_001)]
    assert all(a < b for a, b in pairwise(rates[:301]))
    assert all(a > b for a, b in pairwise(rates[300:]))


@pytest.mark.parametrize("schedule", [CONSTANT, COSINE, ONECYCLE])
def test_an_epoch_reports_the_learning_rate_of_its_last_step(tiny: Data, schedule: str):
    config = quick(schedule=schedule, batch_size=100)  # 3 steps an epoch
    history = finish(train(config, tiny)).history
    assert [e.lr for e in history] == [learning_rate(config, step, 6) for step in (2, 5)]


def test_the_schedule_decides_how_far_a_step_goes(tiny: Data):
    """The first step of onecycle is a 25th of a constant one: AdamW's first step is lr in each weight."""

    def first_step(schedule: str) -> float:
        config = quick(schedule=schedule, placement="none", epochs=1, batch_size=300)
        bias = finish(train(config, tiny)).weights["0.bias"]
        return float(abs(bias - initial["0.bias"]).max())

    initial = finish(train(quick(placement="none", epochs=1, batch_size=300, lr=1e-30), tiny)).weights
    assert first_step(CONSTANT) == pytest.approx(1e-3, rel=1e-2)
    assert first_step(ONECYCLE) == pytest.approx(1e-3 / 25, rel=1e-2)


# --- evaluation --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0, 1_000.0])
def test_score_equals_its_slow_reference(scale: float):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(500, 10, generator=generator)
    labels = torch.randint(0, 10, (500,), generator=generator)
    nll, accuracy, ece, confusion = scored_slowly(logits, labels)
    evaluation = score(logits, labels)
    assert evaluation.loss == pytest.approx(nll, rel=1e-5)
    assert evaluation.accuracy == accuracy
    assert evaluation.ece == pytest.approx(ece, abs=1e-5)
    assert evaluation.confusion.tolist() == confusion


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower_one():
    on_edge = [0.0] * 5 + [-1_000.0] * 5  # confidence 3/15
    below = [0.6] + [0.0] * 9  # confidence 0.168
    logits, labels = torch.tensor([on_edge, below]), torch.tensor([9, 0])
    assert score(logits, labels).ece == pytest.approx(scored_slowly(logits, labels)[2], abs=1e-6)


def test_accuracy_per_class_is_the_recall_of_the_true_class():
    predicted = torch.tensor([*range(10), 0])  # the second image of class 1 is taken for class 0
    labels = torch.tensor([*range(10), 1])
    evaluation = score(nn.functional.one_hot(predicted, 10).float(), labels)
    assert evaluation.confusion[1, :2].tolist() == [1, 1]
    assert evaluation.per_class_accuracy == [1, 0.5, *[1] * 8]


def test_the_confusion_table_names_each_true_class_with_its_counts_and_accuracy():
    predicted = torch.tensor([*range(10), 0, 0])
    labels = torch.tensor([*range(10), 1, 1])
    table = score(nn.functional.one_hot(predicted, 10).float(), labels).confusion_csv().decode()
    rows = list(csv.reader(table.splitlines()))
    assert rows[0] == ["true class", *CLASSES, "accuracy"]
    assert rows[2] == ["Trouser", "2", "1", *["0"] * 8, "0.3333"]
    assert [row[0] for row in rows[1:11]] == list(CLASSES)


def test_evaluation_leaves_the_model_as_it_was(tiny: Data):
    config = quick(placement="bn-dropout")
    model = build_model(config).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, tiny.val, config)
    assert "1.running_mean" in before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluation_drops_nothing_and_equals_one_plain_pass(sample: Data):
    config = quick(placement="bn-dropout")
    model = build_model(config).train()
    evaluation = evaluate(model, sample.val, config)
    with torch.inference_mode():
        logits = model.eval()(normalize(sample.val.pixels))
    plain = score(logits, sample.val.labels)
    assert evaluation.loss == pytest.approx(plain.loss, abs=1e-5)
    assert evaluation.accuracy == pytest.approx(plain.accuracy, abs=2e-3)
    assert int(evaluation.confusion.sum()) == 1_000


# --- cross-validation --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tiny: Data) -> list[Data]:
    images = tiny.arrays().train
    return [Data.from_arrays(fold(images, k, 3)) for k in range(3)]


FOLDS = {"split": "folds", "folds": 3}


def test_cross_validation_is_the_mean_of_separate_trainings(three: list[Data]):
    config = quick(**FOLDS)
    yielded, result = epochs_and_result(cross_validate(config, three))
    apart = [finish(train(config, data)) for data in three]
    assert result.history == tuple(yielded)
    for epoch, mean in enumerate(yielded):
        assert mean.epoch == epoch + 1
        for name in (
            f.name for f in fields(EpochResult) if f.name not in ("epoch", "epoch_s", "images_per_s", "stack")
        ):
            assert getattr(mean, name) == pytest.approx(sum(getattr(r.history[epoch], name) for r in apart) / 3), name
    assert result.fold_accuracies == tuple(r.evaluation.accuracy for r in apart)
    assert result.evaluation.accuracy == pytest.approx(sum(result.fold_accuracies) / 3)
    assert (result.evaluation.confusion == sum(r.evaluation.confusion for r in apart)).all()
    assert result.weights == {}


def test_cross_validation_can_be_closed_early(three: list[Data]):
    training = cross_validate(quick(epochs=100, **FOLDS), three)
    next(training)
    training.close()
    assert list(training) == []


def test_start_trains_over_the_folds_or_on_the_one_split(three: list[Data]):
    folds, single = finish(start(quick(epochs=1, **FOLDS), three)), finish(start(quick(epochs=1), three[:1]))
    assert len(folds.fold_accuracies) == 3
    assert single.history_sha256 == finish(train(quick(epochs=1), three[0])).history_sha256


# --- what a result says -------------------------------------------------------------------------------


def result_of(accuracies: Sequence[float], folds: tuple[float, ...] = ()) -> TrainResult:
    history = [
        EpochResult(n, 0.5, 0.9, 0.75, accuracy, 0.1, 1e-3, 2.0, 1.0, 300.0) for n, accuracy in enumerate(accuracies, 1)
    ]
    return TrainResult(tuple(history), {}, score(torch.eye(10), torch.arange(10)), folds)


def test_final_is_the_last_epoch_and_best_the_one_of_the_highest_accuracy():
    metrics = result_of([0.5, 0.875, 0.625]).metrics()
    assert (metrics["final/val_accuracy"], metrics["best/val_accuracy"], metrics["best/epoch"]) == (0.625, 0.875, 2)


def test_the_deviation_over_folds_is_that_of_a_sample():
    metrics = result_of([0.5], folds=(0.5, 0.7)).metrics()
    assert metrics["final/val_accuracy_fold_sd"] == pytest.approx(0.2 / math.sqrt(2))


@pytest.mark.parametrize("name", [f.name for f in fields(EpochResult) if f.name not in ("stack", "beside")])
def test_the_hash_of_a_history_is_of_every_value_but_the_times(name: str):
    one = result_of([0.5])
    changed = replace(one, history=(replace(one.history[0], **{name: 2 * getattr(one.history[0], name)}),))
    assert (changed.history_sha256 == one.history_sha256) is (name in ("epoch_s", "images_per_s"))


# --- devices and precision ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["foo", "cuda:9", "cuda:-1", ""])
def test_a_device_that_is_not_there_is_refused(name: str):
    message = refusal(ConfigError, resolve_device, name)
    assert f"device={name!r}" in message
    assert "use auto, cpu, cuda or cuda:N" in message


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_automatic_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, gpu: bool, device: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device("auto") == device


def test_the_cpu_is_always_there():
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("cpu", "precision"),
    [
        ({}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_f": True}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, "fp32"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "fp32"),
    ],
    ids=str,
)
def test_the_automatic_precision_is_bf16_where_a_cpu_is_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, Any], precision: str
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert resolve_precision("auto", "cpu") == precision
    assert [resolve_precision(name, "cpu") for name in ("fp32", "bf16")] == ["fp32", "bf16"]  # as asked for


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_automatic_precision_is_bf16_where_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert resolve_precision("auto", "cuda") == precision
    assert resolve_precision("fp32", "cuda") == "fp32"


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert "precision='bf16': cuda has no bf16" in refusal(ConfigError, resolve_precision, "bf16", "cuda")


# --- errors ------------------------------------------------------------------------------------------


def test_any_error_of_a_training_is_explained_in_one_line():
    explained = explain(ValueError("one\ntwo"))
    assert type(explained) is TrainingError
    assert str(explained) == "ValueError: one two"
    diverged = Diverged("loss")
    assert explain(diverged) is diverged


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not match"))
