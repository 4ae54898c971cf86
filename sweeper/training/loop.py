"""Training as a pure function that yields: one `EpochResult` an epoch, a `TrainResult` at the end.

Nothing here knows MLflow, Optuna or an engine. Whoever iterates decides what to do with an epoch,
and stops a run by closing the generator. All randomness of epoch e is drawn from (seed, e), so
several generators may be advanced in turn, and a run depends on its configuration and data alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult as EpochResult
from sweeper.core.results import Evaluation as Evaluation
from sweeper.core.results import Training as Training
from sweeper.core.results import TrainResult as TrainResult
from sweeper.training.batches import batch_sizes, batches
from sweeper.training.device import autocast
from sweeper.training.evaluate import evaluate, subset, to_input
from sweeper.training.failures import check_converging
from sweeper.training.images import Data
from sweeper.training.network import build_model
from sweeper.training.optimizer import AdamW, learning_rate
from sweeper.training.seeds import seeded
from sweeper.training.stability import GRAD_NORM_EVERY, Recorder

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # read when CUDA starts: of 8, streams wait for one another


Train = Callable[[RunConfig, Data], Training]


def train(config: RunConfig, data: Data) -> Training:
    """Train `config` on `data.train`, judging each epoch on `data.val`.

    Yields:
        One `EpochResult` an epoch; the generator's value is the `TrainResult`.

    Raises:
        Diverged: the loss is not finite, or above `RUNAWAY_LOSS`, after an epoch.
    """
    device = torch.device(config.device)
    images, val = data.train.to(device), data.val.to(device)
    clean = subset(images, len(val))
    with seeded(config, epoch=0):
        model = build_model(config)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = AdamW(model, config.weight_decay)
    steps = len(batch_sizes(len(images), config.batch_size))
    history: list[EpochResult] = []
    recorder = Recorder(steps, device)

    for epoch in range(1, config.epochs + 1):
        with seeded(config, epoch) as generator:
            model.train()
            start = perf_counter()
            total_norm = torch.zeros((), device=device)
            for step, (pixels, labels) in enumerate(batches(images, config, generator)):
                lr = learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
                with autocast(config):
                    logits = model(to_input(pixels))  # (B, 10)
                loss = F.cross_entropy(logits.float(), labels)
                loss.backward()
                if step % GRAD_NORM_EVERY == 0:
                    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
                    total_norm += norm
                    recorder.norms[step // GRAD_NORM_EVERY] = norm
                optimizer.step(lr)
                optimizer.zero_grad()
                recorder.losses[step] = loss.detach()
            running_loss = recorder.losses.mean().item()  # waits for the device: the timer may stop
            seconds = perf_counter() - start
            recorder.end_epoch()

        check_converging(config, epoch, lr, running_loss)
        on_train, on_val = evaluate(model, clean, config), evaluate(model, val, config)
        check_converging(config, epoch, lr, on_train.loss, on_val.loss)
        history.append(
            EpochResult(
                epoch=epoch,
                train_loss=on_train.loss,
                train_accuracy=on_train.accuracy,
                val_loss=on_val.loss,
                val_accuracy=on_val.accuracy,
                val_ece=on_val.ece,
                lr=lr,
                grad_norm=total_norm.item() / math.ceil(steps / GRAD_NORM_EVERY),
                epoch_s=seconds,
                images_per_s=len(images) / seconds,
            )
        )
        yield history[-1]

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    return TrainResult(tuple(history), weights, on_val, stability=recorder.stability)
