"""The training loop: a pure function that yields one `EpochResult` per epoch and ends in a `TrainResult`.

It knows no MLflow, Optuna or engine. The caller's `for` decides what to do with an epoch, and stops a run by closing
the generator. All randomness of epoch e is drawn from (seed, e): several runs may advance in turn, and a run
depends on its configuration and data alone.
"""

from __future__ import annotations

import os
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult, Training, TrainResult
from sweeper.training.batches import batch_sizes, batches
from sweeper.training.device import autocast
from sweeper.training.dropout import dropout_layers, schedule_dropout
from sweeper.training.evaluate import evaluate, subset
from sweeper.training.failures import check_converging
from sweeper.training.images import Data, to_input
from sweeper.training.networks import build_model
from sweeper.training.optimizer import AdamW, learning_rate
from sweeper.training.seeds import seeded
from sweeper.training.stability import GRAD_NORM_EVERY, Recorder

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # read when CUDA starts; of the default 8, streams wait


def train(config: RunConfig, data: Data) -> Training:
    """Train `config` on `data.train` and evaluate each epoch on `data.val`.

    Yields:
        One `EpochResult` per epoch; the generator's value is the `TrainResult`.

    Raises:
        Diverged: the loss is not finite, or far above that of a guess, after an epoch.
    """
    device = torch.device(config.device)
    images, val = data.train.to(device), data.val.to(device)
    clean = subset(images, len(val))
    with seeded(config, epoch=0):
        model = build_model(config, data.spec)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, dropout = AdamW(model, config.weight_decay), dropout_layers(model)
    steps = len(batch_sizes(len(images), config.batch_size))
    recorder = Recorder(steps, device)
    history: list[EpochResult] = []

    for epoch in range(1, config.epochs + 1):
        model.train()
        schedule_dropout(dropout, config, epoch)
        start = perf_counter()
        with seeded(config, epoch) as generator:
            for step, (pixels, labels) in enumerate(batches(images, config, generator)):
                lr = learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
                with autocast(config):
                    logits = model(to_input(pixels, data.spec))  # (B, classes)
                loss = F.cross_entropy(logits.float(), labels)
                loss.backward()
                recorder.losses[step] = loss.detach()
                if step % GRAD_NORM_EVERY == 0:
                    gradients = [p.grad for p in model.parameters() if p.grad is not None]
                    recorder.norms[step // GRAD_NORM_EVERY] = nn.utils.get_total_norm(gradients)
                optimizer.step(lr)
                optimizer.zero_grad()
        running_loss = recorder.losses.mean().item()  # waits for the device, so that the time is that of the epoch
        seconds = perf_counter() - start
        recorder.end_epoch()

        check_converging(config, len(data.spec.classes), epoch, lr, running_loss)
        on_train, on_val = evaluate(model, clean, config), evaluate(model, val, config)
        check_converging(config, len(data.spec.classes), epoch, lr, on_train.loss, on_val.loss)
        grad_norm = float(sum(recorder.norms.unbind())) / len(recorder.norms)  # added up in order: hashes depend on it
        speed = len(images) / seconds
        history.append(
            EpochResult.of(epoch, on_train, on_val, lr=lr, grad_norm=grad_norm, epoch_s=seconds, images_per_s=speed)
        )
        yield history[-1]

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return TrainResult(tuple(history), weights, on_val, stability=recorder.stability)
