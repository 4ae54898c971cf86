from __future__ import annotations

import copy
import csv
import io
import json
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sweeper.core.config import PLAIN, Placement, RunConfig
from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.core.xray import RunXRay
from sweeper.data.fashion import CLASSES, SAMPLE
from sweeper.training.device import autocast
from sweeper.training.evaluate import evaluate, predict_weights, score, subset
from sweeper.training.folds import finish
from sweeper.training.images import Data, to_input
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from sweeper.training.seeds import seeded
from sweeper.training.xray.examine import examine, images_in_a_pass, rebuild, val_images
from sweeper.training.xray.layers import BINS
from sweeper.training.xray.passes import Inputs, Subject, eval_pass, recalibrate, training_pass
from tests.support.chain_xray import examine_chain
from tests.support.tensors import tensors

ALWAYS = {"xray/brier", "xray/error_confidence", "xray/onset", "xray/spikes", "xray/nonfinite_steps"}
OF_BATCH_NORM = {
    "xray/variance_shift", "xray/variance_shift_signed", "xray/batch_noise", "xray/recalibration_gain_accuracy",
    "xray/recalibration_gain_loss",
}  # fmt: skip


def small(**changes: Any) -> RunConfig:
    fields = {"model": "small", "epochs": 2, "schedule": "cosine", "dataset": "sample", "head_dropout": 0.0}
    return RunConfig.create(**fields | changes)


def untrained(config: RunConfig) -> TrainResult:
    """A result with the weights that `config` starts from."""
    with seeded(config, 0):
        weights = build_model(config, SAMPLE.spec).state_dict()
    epoch = EpochResult(1, 2.3, 0.1, 2.3, 0.1, 0.1, 1e-3, 1.0, 1.0, 100.0)
    evaluation = Evaluation(2.3, 0.1, 0.1, np.eye(10, dtype=np.int64), brier=0.9, error_confidence=0.2)
    return TrainResult((epoch,), weights, evaluation)


def examined(config: RunConfig, data: Data) -> RunXRay:
    return examine(config, finish(train(config, data)), data)


def subject(config: RunConfig, weights: dict[str, Tensor], data: Data) -> Subject:
    """A network in double precision: in single, torch's BN adds up the values of a batch to three or four digits."""
    made = rebuild(config, weights, data.train, torch.Generator().manual_seed(0))
    made.model.double().register_forward_pre_hook(lambda _, args: (args[0].double(),))
    return made


# --- the variance shift --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(sample: Data) -> RunXRay:
    """Two epochs of BatchNorm alone."""
    return examined(small(placement="bn"), sample)


def test_without_dropout_the_ratio_is_that_of_the_noise_of_batches(plain: RunXRay):
    """r is taken from five batches of 128, m from some twenty whose weights the last steps still moved: 4 % apart."""
    for layer in plain.layers:
        assert 1 <= layer.ratio < 1.04
        assert abs(layer.signed) < 0.04
        assert 1 < layer.floor < 1.04
        assert math.isnan(layer.closed_form)


def test_the_closed_form_is_within_two_percent_of_a_trained_network(sample: Data):
    """With Dropout right before BN after each convolution, and a pass of many images."""
    config = small(placement="dropout-bn", conv_dropout=0.2, epochs=3, seed=1)
    found = examine(config.derive(epochs=41), finish(train(config, sample)), sample)  # a pass grows with the epochs
    assert found.images == 17 * 128
    assert [layer.position for layer in found.layers] == ["after conv 1", "after conv 2"]
    for layer in found.layers:
        assert layer.ratio / layer.closed_form == pytest.approx(1, abs=0.02)
        assert layer.ratio > 1.2
        assert layer.signed < -0.2


def test_dropout_after_batch_norm_shifts_the_layers_behind_it_alone(sample: Data, plain: RunXRay):
    first, second = examined(small(placement="bn-dropout", conv_dropout=0.4), sample).layers
    assert first.ratio < 1.05
    assert second.signed < -0.1 < plain.layers[1].signed
    assert second.ratio > plain.layers[1].ratio + 0.1


def test_m_is_the_running_variance_of_the_weights_and_r_that_of_eval_mode(sample: Data):
    """Ten times the running variance makes m/r ten times as large in that layer, and r smaller in the next."""
    config = small(placement="bn")
    result = untrained(config)
    plain, moved = (
        examine(config, replace(result, weights=result.weights | {"1.running_var": torch.full((8,), m)}), sample)
        for m in (1.0, 10.0)
    )
    assert moved.layers[0].signed == pytest.approx(plain.layers[0].signed - math.log(10), abs=1e-5)
    assert moved.layers[1].signed < plain.layers[1].signed - 1
    assert moved.layers[0].batch_noise == plain.layers[0].batch_noise


def test_r_is_the_mean_of_the_unbiased_batch_variances_of_the_input(sample: Data):
    config = small(placement="bn")
    network = subject(config, untrained(config).weights, Data(sample.train.first(512), sample.val))
    with torch.inference_mode():
        inputs = Inputs.stack([call for (call,) in eval_pass(network)[network.norms["5"]]])
        model = copy.deepcopy(network.model).eval()
        outputs = [model[:5](to_input(pixels, SAMPLE.spec).double()) for pixels in network.batches]
    expected = torch.stack([x.var((0, 2, 3)) for x in outputs]).float()
    torch.testing.assert_close(inputs.variances.float(), expected)
    torch.testing.assert_close(inputs.highest.amax(0), torch.cat(outputs).amax((0, 2, 3)).float())


def test_batch_noise_is_that_of_training_mode(sample: Data):
    config = small(placement="dropout-bn", conv_dropout=0.5)
    network = subject(config, untrained(config).weights, Data(sample.train.first(512), sample.val))
    with torch.inference_mode(), seeded(config, 9):
        variances, _ = training_pass(network)
    with torch.inference_mode(), seeded(config, 9):
        model = network.model.train()
        dropped = model[:2](to_input(network.batches[0], SAMPLE.spec).double())
    torch.testing.assert_close(variances[network.norms["2"]][0][0], dropped.var((0, 2, 3)))


# --- recalibration ----------------------------------------------------------------------------------------


def recalibrated_slowly(config: RunConfig, weights: dict[str, Tensor], batches: list[Tensor]) -> dict[str, Tensor]:
    """Layer by layer over all images, in double precision: the statistics of a layer, then what it passes on."""
    model = build_model(config, SAMPLE.spec)
    model.load_state_dict(weights)
    model.double().eval()
    at = [to_input(pixels, SAMPLE.spec).double() for pixels in batches]
    found = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            dims = [d for d in range(at[0].dim()) if d != 1]
            found[f"{name}.running_mean"] = torch.stack([x.mean(dims) for x in at]).mean(0)
            found[f"{name}.running_var"] = torch.stack([x.var(dims) for x in at]).mean(0)
            shape = (1, -1) + (1,) * (at[0].dim() - 2)
            at = [
                (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + layer.eps).sqrt()
                for x in at
            ]
            at = [x * layer.weight.view(shape) + layer.bias.view(shape) for x in at]
        else:
            at = [layer(x.clone()) for x in at]
    return found


@pytest.mark.parametrize("placement", [p for p in PLAIN if p.has_batch_norm])
def test_recalibration_equals_a_slow_layer_by_layer_one(placement: Placement, tiny: Data):
    config = small(placement=placement, conv_dropout=0.3, head_dropout=0.5, batch_size=60)
    weights = tensors(finish(train(config, tiny)))
    network = subject(config, weights, tiny)
    with torch.inference_mode():
        recalibrate(network)
        expected = recalibrated_slowly(config, weights, list(network.batches))
    state = network.model.state_dict()
    assert len(expected) == 2 * len(network.norms)
    for name, value in expected.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-9, atol=1e-12)
    for name in weights.keys() - expected.keys():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], weights[name].double())


def test_the_gain_is_what_recalibration_makes_of_the_validation_images(sample: Data):
    """Running variances that are much too small: recalibration finds the right ones, and the loss falls."""
    config = small(placement="bn", epochs=1)
    good = finish(train(config, sample))
    weights = {n: v / 50 if n.endswith("running_var") else v for n, v in good.weights.items()}
    _, logits = predict_weights(config, weights, sample.val)
    verdict = score(logits, sample.val.labels, CLASSES)
    bad = replace(good, weights=weights, evaluation=verdict)
    found = examine(config, bad, sample)
    assert found.recalibration_gain_loss == pytest.approx(verdict.loss - good.evaluation.loss, abs=0.1)
    assert found.recalibration_gain_accuracy == pytest.approx(good.evaluation.accuracy - verdict.accuracy, abs=0.03)
    assert found.recalibration_gain_loss > 1


def test_with_many_validation_images_the_gain_compares_the_same_ones(sample: Data):
    config = small(placement="bn", epochs=1)
    result = untrained(config)
    data = Data(sample.train.first(3_000), sample.train[torch.arange(3_000, 6_000)])
    found = examine(config, result, data)
    model, _ = predict_weights(config, result.weights, data.val)
    before = evaluate(model, subset(data.val, 1_000), config)
    assert 0 < before.loss - found.recalibration_gain_loss < 3
    assert abs(found.recalibration_gain_accuracy) < 0.5
    images = found.recalibration_gain_accuracy * 1_000
    assert images == pytest.approx(round(images), abs=1e-6)


def test_the_xray_is_the_same_each_time_and_draws_from_no_generator_of_others(tiny: Data):
    config = small(placement="dropout-bn", augmentation="crop-flip", batch_size=50)
    result = finish(train(config, tiny))
    before = torch.get_rng_state()
    one = examine(config, result, tiny)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two = examine(config, result, tiny)
    assert one.csv() == two.csv()
    assert one.metrics() == two.metrics()


# --- all networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["small", "medium"])
@pytest.mark.parametrize("placement", [p for p in PLAIN if p.has_batch_norm])
def test_the_numbers_are_those_of_the_slow_reference_in_each_digit(
    placement: Placement, model: str, precision: str, tiny: Data
):
    config = small(model=model, placement=placement, conv_dropout=0.3, head_dropout=0.4, batch_size=50, epochs=1,
                   augmentation="crop-flip", precision=precision)  # fmt: skip
    few = Data(tiny.train.first(150), tiny.val.first(50))
    result = finish(train(config, few)) if model == "small" else untrained(config)
    found = examine(config, result, few)
    layers, gain = examine_chain(config, result, few)
    assert found.skipped == ()
    assert [str(replace(layer, dropout="", earlier="")) for layer in found.layers] == list(map(str, layers))
    assert (found.recalibration_gain_accuracy, found.recalibration_gain_loss) == gain


@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("placement", PLAIN)
def test_every_network_can_be_examined(model: str, placement: Placement, tiny: Data):
    config = small(model=model, placement=placement, conv_dropout=0.2, head_dropout=0.3, batch_size=8, epochs=1)
    result = untrained(config)
    found = examine(config, result, Data(tiny.train.first(32), tiny.val.first(20)))
    norms = [name for name in result.weights if name.endswith("running_var")]
    convs = {"small": 2, "medium": 3, "large": 6}[model]
    if placement is Placement.IC:
        positions = [*(f"before conv {n + 2}" for n in range(convs - 1)), "before linear 1", "before linear 2"]
    else:
        positions = [f"after conv {n + 1}" for n in range(convs)] if placement.has_batch_norm else []
    assert [layer.position for layer in found.layers] == positions
    assert [f"{layer.name}.running_var" for layer in found.layers] == norms
    assert [layer.channels for layer in found.layers] == [len(result.weights[name]) for name in norms]
    of_dropout = {"xray/mask_variance"} if placement.has_head_dropout else set()
    assert found.metrics().keys() == ALWAYS | of_dropout | (OF_BATCH_NORM if norms else set())
    has_closed_form = [math.isfinite(layer.closed_form) for layer in found.layers]
    assert has_closed_form == [placement is Placement.DROPOUT_BN] * len(norms)
    assert len(pickle.dumps(found)) < 100_000


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_those_that_the_network_computes(precision: str, tiny: Data):
    """After BN they are derived from those before it: here both are taken from the network."""
    config = small(placement="bn", precision=precision, batch_size=50, augmentation="none", epochs=1)
    result = finish(train(config, tiny))
    result.weights["5.weight"][::2] *= -1  # of some channels the largest values then come from the smallest
    result.weights["5.bias"][:4] -= 1
    model, _ = predict_weights(config, result.weights, tiny.val)
    with torch.inference_mode(), autocast(config):
        before = model[:5](to_input(tiny.train.pixels, SAMPLE.spec))
        after = model[5](before.clone()).float()
    found = examine(config, result, tiny).layers[1]
    for side, values in ((found.before, before.float()), (found.after, after)):
        assert side.mean == pytest.approx(values.mean().item(), abs=0.02)
        assert side.variance == pytest.approx(values.var().item(), rel=0.02)
        assert side.dead == (values.amax((0, 2, 3)) <= 0).float().mean().item()
        assert sum(side.shares) == pytest.approx(1)
        assert (side.low + side.high) / 2 == pytest.approx(side.mean, abs=1e-5)
        histogram = values.clamp(side.low, side.high).histc(BINS, side.low, side.high) / values.numel()
        assert (torch.tensor(side.shares) - histogram).abs().max() < 0.02


# --- what is not finite, or dead --------------------------------------------------------------------------


def test_a_dead_channel_is_left_out_and_counted(tiny: Data):
    config = small(placement="bn", batch_size=50, epochs=1)
    result = finish(train(config, tiny))
    weights = tensors(result)
    weights["0.weight"][3] = 0
    weights["1.bias"][3] = -1
    whole, dead = examine(config, result, tiny), examine(config, replace(result, weights=weights), tiny)
    assert [layer.left_out for layer in whole.layers] == [0, 0]
    assert [layer.left_out for layer in dead.layers] == [1, 0]
    assert dead.layers[0].after.dead == 1 / 8
    assert dead.layers[0].ratio == pytest.approx(whole.layers[0].ratio, rel=0.1)
    assert math.isfinite(dead.layers[1].ratio)
    assert dead.metrics().keys() == whole.metrics().keys()


def test_weights_that_are_not_finite_have_no_numbers_and_raise_nothing(tiny: Data):
    config = small(placement="dropout-bn", batch_size=50, epochs=1)
    result = untrained(config)
    weights = {n: torch.full_like(v, math.nan) if v.is_floating_point() else v for n, v in tensors(result).items()}
    found = examine(config, replace(result, weights=weights), tiny)
    assert found.metrics().keys() <= ALWAYS | {"xray/recalibration_gain_accuracy"}
    rows = list(csv.DictReader(io.StringIO(found.csv().decode())))
    assert [row["ratio"] for row in rows] == ["", ""]
    assert json.loads(found.json())["layers"][0]["left_out"] == 8


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "available", "batch_size", "expected"),
    [
        (6, 12_000, 128, 5 * 128),  # the quick protocol: one in 120 of 72,000, in whole batches
        (20, 60_000, 128, 4_096),  # no more are needed
        (1, 6_000, 128, 512),  # the fewest
        (6, 12_000, 512, 4 * 512),  # at least four batches
        (1, 300, 128, 256),  # no more whole batches than there are
        (1, 60_000, 60_000, 60_000),
    ],
)
def test_a_pass_grows_with_the_training(epochs: int, available: int, batch_size: int, expected: int):
    assert images_in_a_pass(small(epochs=epochs, batch_size=batch_size), available) == expected


def test_the_validation_images_grow_with_the_training():
    assert val_images(small(epochs=1), 6_000, 1_000) == 1_000
    assert val_images(small(epochs=6), 12_000, 10_000) == 1_000
    assert val_images(small(epochs=20), 60_000, 10_000) == 10_000
    assert val_images(small(epochs=1), 6_000, 40) == 40
