from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged
from sweeper.core.results import EpochResult, Training, TrainResult
from sweeper.data.fashion import CLASSES
from sweeper.training.batches import batches
from sweeper.training.evaluate import evaluate, predict_weights, score
from sweeper.training.folds import finish
from sweeper.training.images import Data, to_input
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from sweeper.training.optimizer import learning_rate
from sweeper.training.seeds import seeded
from sweeper.training.stability import count_spikes


def quick(**changes: Any) -> RunConfig:
    """A small network with every source of randomness, for two epochs."""
    fields = {"model": "small", "epochs": 2, "batch_size": 64, "augmentation": "crop-flip-erase", "dataset": "sample"}
    return RunConfig.create(**fields | changes)


def hashes(result: TrainResult) -> tuple[str, str]:
    return result.history_sha256, result.weights_sha256


def epochs_and_result(training: Training) -> tuple[list[EpochResult], TrainResult]:
    epochs = []
    while True:
        try:
            epochs.append(next(training))
        except StopIteration as stop:
            return epochs, stop.value


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
    assert hashes(finish(train(quick(**changes), tiny))) == hashes(one)


CHANGES = {
    "seed": 1, "augmentation": "none", "head_dropout": 0.31, "lr": 1.01e-3, "batch_size": 63, "precision": "bf16",
}  # fmt: skip


def test_another_configuration_trains_to_another_result(tiny: Data):
    configs = [quick(epochs=1), *(quick(epochs=1, **{name: value}) for name, value in CHANGES.items())]
    found = [hashes(finish(train(config, tiny))) for config in configs]
    for each in zip(*found, strict=True):  # histories, weights
        assert len(set(each)) == len(configs)


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
    assert [hashes(finish(training)) for training in trainings] == [hashes(result) for result in alone]


def test_the_global_generator_is_as_it_was_whenever_the_caller_has_control(tiny: Data):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    training = train(quick(), tiny)
    for _ in range(2):
        next(training)
        assert torch.equal(torch.get_rng_state(), before)
    finish(training)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Diverged):
        finish(train(quick(lr=1e5), tiny))
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


def test_the_last_epoch_evaluates_the_weights_that_are_returned(tiny: Data):
    config = quick()
    result = finish(train(config, tiny))
    model, logits = predict_weights(config, result.weights, tiny.val)
    on_val = score(logits, tiny.val.labels, CLASSES)
    last = result.history[-1]
    assert on_val.loss == pytest.approx(last.val_loss, abs=1e-5)
    assert (on_val.accuracy, result.evaluation.accuracy) == (last.val_accuracy, last.val_accuracy)
    assert on_val.confusion.tolist() == result.evaluation.confusion.tolist()
    on_train = evaluate(model, tiny.train[torch.arange(0, 300, 3)], config)  # as many as in val, clean, evenly spread
    assert on_train.loss == pytest.approx(last.train_loss, abs=1e-5)
    assert on_train.accuracy == last.train_accuracy


def epoch_of(config: RunConfig, data: Data, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch, as a training draws them."""
    with seeded(config, epoch) as generator:
        return list(batches(data.train, config, generator))


def test_each_epoch_has_an_order_of_its_own(tiny: Data):
    config = quick(batch_size=300)
    ((_, first),), ((_, second),) = epoch_of(config, tiny, 1), epoch_of(config, tiny, 2)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize("batch_size", [32, 4])
def test_training_equals_a_plain_loop_over_the_same_batches(batch_size: int, tiny: Data):
    """By torch's own AdamW; of 75 steps an epoch, with batches of 4, those after the 51st are judged as spikes."""
    config = quick(placement="bn", batch_size=batch_size, schedule="onecycle", lr=1e-4, weight_decay=0.1)
    result = finish(train(config, tiny))
    with seeded(config, 0):
        model = build_model(config, tiny.spec)
    groups = [{"params": [p], "weight_decay": 0.1 if p.dim() > 1 else 0.0} for p in model.parameters()]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    losses, variations, step = [], [], 0
    for epoch in (1, 2):
        model.train()
        norms = []
        for pixels, labels in epoch_of(config, tiny, epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, 2 * math.ceil(300 / batch_size))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(to_input(pixels, tiny.spec)), labels)
            loss.backward()
            losses.append(loss.item())
            norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)))
            optimizer.step()
            step += 1
        model.eval()
        with torch.no_grad():
            val = score(model(to_input(tiny.val.pixels, tiny.spec)), tiny.val.labels, CLASSES)
        sampled = torch.tensor(norms[::8])
        variations.append(float(sampled.std() / sampled.mean()))
        assert result.history[epoch - 1].val_loss == pytest.approx(val.loss, rel=1e-4)
        assert result.history[epoch - 1].grad_norm == pytest.approx(float(sampled.mean()), rel=1e-3)
    assert result.stability is not None
    assert result.stability.grad_norm_cv == pytest.approx(sum(variations) / 2, rel=1e-2)
    assert result.stability.spikes == count_spikes(torch.tensor(losses))


def test_a_last_batch_of_one_image_trains_with_batch_norm(sample: Data):
    data = Data(sample.train[torch.arange(65)], sample.val[torch.arange(20)])
    assert len(finish(train(quick(placement="ic", batch_size=64), data)).history) == 2


def test_one_epoch_of_the_small_network_learns_the_sample(sample: Data):
    result = finish(train(RunConfig(model="small", placement="bn-head-dropout", epochs=1, dataset="sample"), sample))
    assert result.history[0].val_accuracy > 0.6


@pytest.mark.parametrize("lr", [1e5, 1e30], ids=["large loss", "no finite logit"])
@pytest.mark.parametrize("placement", ["none", "bn"])
def test_a_huge_learning_rate_diverges_and_the_message_says_where(tiny: Data, lr: float, placement: str):
    with pytest.raises(Diverged, match="after epoch 1") as caught:
        finish(train(quick(lr=lr, placement=placement), tiny))
    message = str(caught.value)
    assert f"at lr={lr:.4g}, placement={placement}" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_an_epoch_reports_the_learning_rate_of_its_last_step(tiny: Data, schedule: str):
    config = quick(schedule=schedule, batch_size=100)  # 3 steps an epoch
    history = finish(train(config, tiny)).history
    assert [e.lr for e in history] == [learning_rate(config, step, 6) for step in (2, 5)]
