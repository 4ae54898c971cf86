"""Training as a pure function that yields: one `EpochResult` an epoch, a `TrainResult` at the end.

Nothing here knows MLflow, Optuna or an engine. Whoever iterates decides what to do with an epoch,
and stops a run by closing the generator. All randomness of epoch e is drawn from (seed, e), so
several generators may be advanced in turn, and a run depends on its configuration and data alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.config import DEVICE, RunConfig
from sweeper.data import Data, Images, batch_sizes, batches, normalize
from sweeper.dataset import CLASSES
from sweeper.errors import ConfigError, Diverged, OutOfMemory, TrainingError, UsageError
from sweeper.memory import keep_freed
from sweeper.model import build_model, load_weights
from sweeper.optimizer import AdamW
from sweeper.results import EpochResult as EpochResult
from sweeper.results import Evaluation as Evaluation
from sweeper.results import Training as Training
from sweeper.results import TrainResult as TrainResult
from sweeper.stability import GRAD_NORM_EVERY, Recorder

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # read when CUDA starts: of 8, streams wait for one another

EVAL_BATCH: Final = {"cpu": 500, "cuda": 2_500}  # images; on a CPU the activations of more would leave its caches
ECE_BINS: Final = 15
MEASURED: Final = 5 + len(CLASSES) ** 2  # numbers of an evaluation
RUNAWAY_LOSS: Final = 20 * math.log(len(CLASSES))  # twenty times the loss of a uniform guess, in nats


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


def cross_validate(config: RunConfig, folds: Sequence[Data], train_one: Train = train) -> Training:
    """Train one model a fold, all in step: each epoch yields the mean over folds."""
    trainings = [train_one(config, data) for data in folds]
    history: list[EpochResult] = []
    for _ in range(config.epochs):
        history.append(_mean([next(training) for training in trainings]))
        yield history[-1]
    results = [finish(training) for training in trainings]
    last = history[-1]
    confusion = np.sum([r.evaluation.confusion for r in results], axis=0)
    return TrainResult(
        history=tuple(history),
        weights={},
        evaluation=Evaluation(last.val_loss, last.val_accuracy, last.val_ece, confusion),
        fold_accuracies=tuple(r.evaluation.accuracy for r in results),
    )


def finish(training: Training) -> TrainResult:
    """Run a training to its end and return its result."""
    while True:
        try:
            next(training)
        except StopIteration as stop:
            result: TrainResult = stop.value
            return result


def use_threads(threads: int) -> None:
    """Let the computations of this process use `threads` threads, on which results depend in the last bits, and keep
    the memory that they free."""
    torch.set_num_threads(threads)
    keep_freed()


def predict_weights(config: RunConfig, weights: Mapping[str, Any], images: Images) -> tuple[nn.Module, Tensor]:
    """The network of `config` with `weights`, in eval mode on the CPU, and its logits `(N, 10)` for `images`."""
    model = load_weights(build_model(config), weights)
    device = torch.device(config.device)
    logits = predict(model.to(device), images.to(device), config)
    return model.cpu().eval(), logits.cpu()


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, config: RunConfig) -> Evaluation:
    """Evaluate `model` in eval mode on `images`, which lie on its device."""
    return score(predict(model, images, config), images.labels)


@torch.inference_mode()
def predict(model: nn.Module, images: Images, config: RunConfig) -> Tensor:
    """Logits `(N, 10)`, float32, of `model` in eval mode for `images`, which lie on its device."""
    model.eval()
    with autocast(config):
        logits = [model(to_input(p)).float() for p in images.pixels.split(EVAL_BATCH[images.pixels.device.type])]
    return torch.cat(logits)


def score(logits: Tensor, labels: Tensor) -> Evaluation:
    """Metrics of `logits` `(N, 10)` against `labels` `(N,)`."""
    return evaluation_of(measure(logits, labels))


def measure(logits: Tensor, labels: Tensor) -> Tensor:
    """What an `Evaluation` is made of, float64 `(MEASURED,)`, on the device of `logits` and without waiting for it.

    The calibration error is that of Guo et al. 2017 (arXiv 1706.04599), with 15 equal bins of confidence:
    the mean over bins, weighted by their share of images, of |accuracy - mean confidence|.
    """
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    correct = predicted == labels
    classes = logits.shape[1]
    confusion = torch.zeros(classes**2, dtype=torch.int64, device=logits.device)
    confusion.index_add_(0, labels * classes + predicted, torch.ones_like(labels))
    bins = (confidence.nan_to_num() * ECE_BINS).ceil().clamp(1, ECE_BINS).long() - 1
    surplus = torch.zeros(ECE_BINS, device=logits.device).index_add_(0, bins, confidence - correct.float())
    numbers = [
        F.cross_entropy(logits, labels),
        correct.float().mean(dtype=torch.float64),
        surplus.abs().sum().double() / len(labels),
        (probabilities - F.one_hot(labels, classes)).square().sum(1).mean(),
        confidence.where(~correct, 0.0).sum() / (~correct).sum(),
    ]
    return torch.cat([torch.stack([number.double() for number in numbers]), confusion.double()])


def evaluation_of(measured: Tensor) -> Evaluation:
    """What was measured, as a value; it is fetched from its device."""
    loss, accuracy, ece, brier, error_confidence, *counts = measured.tolist()
    confusion = np.asarray(counts, dtype=np.int64).reshape(len(CLASSES), len(CLASSES))
    return Evaluation(loss, accuracy, ece, confusion, brier, error_confidence)


def learning_rate(config: RunConfig, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps`, from 0.

    cosine: half a cosine from lr to 0 (Loshchilov and Hutter 2016, arXiv 1608.03983).
    onecycle: a linear rise from lr/25 over the first 30 % of steps, then half a cosine to 0
    (after Smith and Topin 2017, arXiv 1708.07120).
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * step / steps)) / 2
    rise = 0.3 * steps
    if step < rise:
        return config.lr * (1 / 25 + (24 / 25) * step / rise)
    return config.lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


# --- device and precision -----------------------------------------------------------------------


def resolve_device(name: str) -> str:
    """`auto` becomes cuda where a GPU can be used, else cpu; any other name is probed by allocating on it.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(DEVICE, name):
        raise ConfigError(f"device={name[:60]!r}: no such device; use auto, cpu, cuda or cuda:N")
    try:
        torch.empty(1, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ConfigError(f"device={name!r}: cannot be used here ({reason}); use auto, cpu, cuda or cuda:N") from None
    return name


def hardware(device: str) -> str:
    """What computes, in words: results are equal in each bit on the same of it, with the same number of threads."""
    if device != "cpu":
        return torch.cuda.get_device_name(torch.device(device))
    return f"{torch.cpu.get_capabilities().get('cpu_name', 'unknown CPU')}, {torch.backends.cpu.get_cpu_capability()}"


def resolve_precision(name: str, device: str) -> str:
    """`auto` becomes bf16 where the hardware computes in it faster than in fp32, else fp32.

    That is a GPU with bf16, and a CPU with AMX or AMD's avx512_bf16. Intel's avx512_bf16 without
    AMX runs at half the rate of fp32 (docs/log.md), so it stays with fp32.

    Raises:
        ConfigError: bf16 was asked for on a GPU that has none.
    """
    if device != "cpu":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if name == "bf16" and not supported:
            raise ConfigError(f"precision='bf16': {device} has no bf16; use fp32 or auto")
        return ("bf16" if supported else "fp32") if name == "auto" else name
    if name != "auto":
        return name
    cpu = torch.cpu.get_capabilities()
    amd = "amd" in str(cpu.get("cpu_name", "")).lower()
    return "bf16" if cpu.get("amx_bf16") or (cpu.get("avx512_bf16") and amd) else "fp32"


def autocast(config: RunConfig) -> torch.autocast:
    """The context in which the networks of `config` compute."""
    device = torch.device(config.device).type
    return torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16", cache_enabled=True)


# --- parts of the loop ---------------------------------------------------------------------------


@contextmanager
def seeded(config: RunConfig, epoch: int) -> Iterator[torch.Generator]:
    """Seed torch from (seed, epoch) for the block, yield a CPU generator of its own, restore afterwards."""
    digest = _digest(config, epoch)
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(int.from_bytes(digest[:7]))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int.from_bytes(digest[:7]))
        yield order_generator(config, epoch)


def order_generator(config: RunConfig, epoch: int) -> torch.Generator:
    """The generator that an epoch's order and augmentation are drawn from, on the CPU."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(config, epoch)[7:14]))


def mask_generator(config: RunConfig, epoch: int, device: torch.device) -> torch.Generator:
    """A generator that gives what torch's own gives to Dropout within `seeded`."""
    return torch.Generator(device).manual_seed(int.from_bytes(_digest(config, epoch)[:7]))


def _digest(config: RunConfig, epoch: int) -> bytes:
    return hashlib.sha256(f"{config.seed}/{epoch}".encode()).digest()


def to_input(pixels: Tensor) -> Tensor:
    """uint8 `(B, 28, 28)` as the networks take it: standardised float32 `(B, 1, 28, 28)`, channels last."""
    return normalize(pixels).to(memory_format=torch.channels_last)


def subset(images: Images, size: int) -> Images:
    """`size` images spread evenly over `images`, or all of them."""
    if len(images) <= size:
        return images
    index = torch.arange(size, device=images.labels.device) * len(images) // size
    return images[index]


def check_converging(config: RunConfig, epoch: int, lr: float, *losses: float) -> None:
    """Return if a training may go on.

    Raises:
        Diverged: one of `losses` is not finite, or above `RUNAWAY_LOSS`.
    """
    worst = next((x for x in losses if not math.isfinite(x)), max(losses))
    if not math.isfinite(worst) or worst > RUNAWAY_LOSS:
        raise Diverged(
            f"loss {worst:.4g} after epoch {epoch}, above {RUNAWAY_LOSS:.0f} or not finite, "
            f"at lr={lr:.4g}, placement={config.placement.value}: lower lr"
        )


def _mean(results: Sequence[EpochResult]) -> EpochResult:
    """The mean of each measured value; times add up."""
    measured = [f.name for f in fields(EpochResult) if f.name not in ("stack", "beside")]
    values = {name: sum(getattr(r, name) for r in results) / len(results) for name in measured}
    seconds = sum(r.epoch_s for r in results)
    return EpochResult(**values | {"epoch": results[0].epoch, "epoch_s": seconds})


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device or the machine has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def explain(error: Exception) -> TrainingError | UsageError:
    """Any error of a training as one of ours, in one line, with its traceback as `details`."""
    if isinstance(error, TrainingError | UsageError):
        return error
    kind = OutOfMemory if out_of_memory(error) else TrainingError
    explained = kind(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    explained.details = "".join(traceback.format_exception(error))
    return explained
