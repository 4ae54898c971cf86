"""Train on a GPU by replaying one step, captured as a CUDA graph.

A step is some fifty kernels of a few microseconds each, which a GPU runs faster than Python can launch them. The draws
of an epoch (order, augmentation, masks) and its learning rates are on the device before its first step. A step finds
its batch by a number on the device: within an epoch nothing is sent, read or launched one by one.

`loop.train` is the slow reference: same weights, order and augmentation, and steps that are equal up to rounding. Only
the masks of Dropout differ: each layer's are drawn for a whole epoch at once. They depend on the seed, the epoch and
the layers alone. Without a GPU the same steps are taken one by one, as tests do.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from time import perf_counter
from typing import Final

import torch
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.errors import one_line
from sweeper.core.results import EpochResult, Evaluation, Training, TrainResult
from sweeper.training.batches import batch_sizes, epoch_images
from sweeper.training.evaluate import evaluation_of, measure, measured_numbers, predict, subset
from sweeper.training.failures import check_converging
from sweeper.training.gpu.network import Network
from sweeper.training.gpu.operations import Plain, Step
from sweeper.training.images import Data, send
from sweeper.training.networks import build_model
from sweeper.training.optimizer import BETAS, learning_rate
from sweeper.training.seeds import mask_generator, order_generator, seeded
from sweeper.training.stability import GRAD_NORM_EVERY, Recorder

AHEAD: Final = 64  # steps that are launched at once, twice: more would only delay the launches of other runs

Waiting = torch.cuda.Event  # the device must reach it before a run can continue
Cooperative = Generator[EpochResult | Waiting, None, TrainResult]


def train_captured(config: RunConfig, data: Data) -> Training:
    """Train as `loop.train` does, by captured steps."""
    training = cooperative(config, data)
    while True:
        try:
            what = next(training)
        except StopIteration as stop:
            result: TrainResult = stop.value
            return result
        if isinstance(what, EpochResult):
            yield what
        else:
            what.synchronize()


def cooperative(config: RunConfig, data: Data, beside: Callable[[], int] = lambda: 0) -> Cooperative:
    """Train as `loop.train` does, taking turns with other runs, each in its own stream.

    Yields:
        One `EpochResult` per epoch, and a device event wherever this process would have to wait for it. `beside`
        returns the number of other runs on the device.
    """
    captured = Captured(config, data)
    history: list[EpochResult] = []
    try:
        for epoch in range(1, config.epochs + 1):
            captured.draw(epoch)
            yield from captured.take_steps()
            yield from captured.evaluate()
            result = captured.read(epoch, beside())
            history.append(result)
            yield result
        return captured.result(tuple(history))
    finally:
        captured.close()


@cache
def operations(device: torch.device) -> Plain:
    """Return kernels for a GPU if Triton is there, as in torch's builds for GPUs, and can compile; else torch's own."""
    if device.type == "cpu":
        return Plain()
    try:
        from sweeper.training.gpu.launches import Kernels

        kernels = Kernels()
        with torch.cuda.device(device):
            step = Step(torch.zeros((), dtype=torch.int64, device=device), 1)
            kernels.patches(torch.zeros(1, 28, 28, dtype=torch.uint8, device=device), 1, step, 1.0, 0.0, torch.float32)
    except Exception as error:  # noqa: BLE001 - no Triton, no C compiler, or a GPU that it does not know
        warnings.warn(f"Triton kernels cannot be used, so steps are slower: {one_line(error, 200)}", stacklevel=2)
        return Plain()
    return kernels


class Captured:
    """The state of a run on its device, and its steps.

    Attributes:
        network: the network that is trained.
        sizes: sizes of the batches of an epoch.
    """

    def __init__(self, config: RunConfig, data: Data, parts: Plain | None = None) -> None:
        self.config = config
        self._device = torch.device(config.device)
        self._images, val = data.train.to(self._device), data.val.to(self._device)
        self._parts = parts or operations(self._device)
        clean = subset(self._images, len(val))
        self._judged = clean.joined(val), len(clean)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        count = len(self._images)
        self.sizes = batch_sizes(count, config.batch_size)
        with self._on_stream():
            with seeded(config, epoch=0):
                model = build_model(config, data.spec)
            model._apply(lambda values: send(values, self._device))
            self._step = Step(torch.zeros((), dtype=torch.int64, device=self._device), config.batch_size)
            dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
            self.network = Network(model, data.spec, count, self._step, dtype, config.weight_decay, self._parts)
            steps = len(self.sizes)
            self._pixels = self._images.pixels[..., 0].clone()
            self._labels = self._images.labels.clone()
            self._rates = torch.zeros(steps, device=self._device)
            self._corrections = torch.ones(steps, 2, device=self._device)
            self._losses = torch.zeros(count, device=self._device)
            self._squares = torch.zeros(steps, self._parts.blocks(self.network.parts), device=self._device)
        self._clock = _Clock(self._stream)
        self._recorder = Recorder(steps, torch.device("cpu"))
        self._replays = self._capture() if self._stream is not None else {}
        self._read: Tensor | None = None
        self._last: Evaluation | None = None

    # --- an epoch -------------------------------------------------------------------------------

    @torch.no_grad()
    def draw(self, epoch: int) -> None:
        """Put the draws of the epoch and its learning rates on the device."""
        config, steps = self.config, len(self.sizes)
        first = (epoch - 1) * steps
        rates = [learning_rate(config, first + s, config.epochs * steps) for s in range(steps)]
        self._lr = rates[-1]
        number = torch.arange(first + 1, first + steps + 1, dtype=torch.float64)
        corrections = torch.stack([1 - BETAS[0] ** number, (1 - BETAS[1] ** number).sqrt()], dim=1)
        with self._on_stream():
            self._step.number.zero_()
            self._rates.copy_(send(torch.tensor(rates), self._device))
            self._corrections.copy_(send(corrections.float(), self._device))
            images = epoch_images(self._images, config, order_generator(config, epoch))
            self._pixels.copy_(images.pixels[..., 0])
            self._labels.copy_(images.labels)
            generator = mask_generator(config, epoch, self._device)
            for masks in self.network.masks:
                masks.kept.bernoulli_(1 - masks.rate, generator=generator)

    def take_steps(self) -> Iterator[Waiting]:
        """Launch all steps of the epoch, at most two times `AHEAD` before the device has done them."""
        launched: deque[Waiting] = deque()
        self._clock.start()
        for first in range(0, len(self.sizes), AHEAD):
            if len(launched) == 2:
                yield from _until(launched.popleft())
            with self._on_stream():
                for size in self.sizes[first : first + AHEAD]:
                    self._replay(size)
            launched.extend(self._mark())
        self._clock.stop()

    def evaluate(self) -> Iterator[Waiting]:
        """Evaluate the network, and fetch the measurements of the epoch from the device."""
        images, clean = self._judged
        with self._on_stream():
            logits = predict(self.network.model, images, self.config)
            judged = [measure(logits[part], images.labels[part]) for part in (slice(clean), slice(clean, None))]
            losses = self._losses_of_steps()
            norms = self._squares.sum(1).sqrt()
            found = torch.cat([losses.double(), norms.double(), *judged])
            self._read = torch.empty_like(found, device="cpu", pin_memory=self._stream is not None)
            self._read.copy_(found, non_blocking=True)
        for mark in self._mark():
            yield from _until(mark)

    def _losses_of_steps(self) -> Tensor:
        """Return the mean loss of each batch, `(steps,)`, by few operations."""
        before_last = self.config.batch_size * (len(self.sizes) - 1)
        means = self._losses[:before_last].view(-1, self.config.batch_size).mean(1)
        return torch.cat([means, self._losses[before_last:].mean().view(1)])

    def read(self, epoch: int, beside: int) -> EpochResult:
        """Return the result of the epoch, once it has been evaluated.

        Raises:
            Diverged: the loss is not finite, or exploded.
        """
        assert self._read is not None
        steps = len(self.sizes)
        classes = self._images.spec.classes
        size = measured_numbers(classes)
        losses, norms, on_train, on_val = self._read.split([steps, steps, size, size])
        norms = norms[::GRAD_NORM_EVERY]
        self._recorder.losses.copy_(losses)
        self._recorder.norms.copy_(norms)
        self._recorder.end_epoch()
        clean, self._last = evaluation_of(on_train, classes), evaluation_of(on_val, classes)
        mean_loss = losses.mean().item()
        check_converging(self.config, len(classes), epoch, self._lr, mean_loss, clean.loss, self._last.loss)
        seconds = self._clock.seconds() / (1 + beside)
        return EpochResult.of(
            epoch, clean, self._last, lr=self._lr, grad_norm=norms.mean().item(), epoch_s=seconds,
            images_per_s=len(self._images) / seconds, beside=beside,
        )  # fmt: skip

    def result(self, history: tuple[EpochResult, ...]) -> TrainResult:
        """Return the result of all epochs."""
        assert self._last is not None
        state = self.network.model.state_dict()
        with self._on_stream():
            values = torch.cat([value.detach().float().flatten() for value in state.values()]).cpu()
        parts = values.split([value.numel() for value in state.values()])
        weights = {name: part.view(state[name].shape).clone() for name, part in zip(state, parts, strict=True)}
        for name in weights:
            if name.endswith("num_batches_tracked"):
                weights[name] = torch.tensor(len(self.sizes) * len(history))
        return TrainResult(history, weights, self._last, stability=self._recorder.stability)

    def close(self) -> None:
        """Wait for the launched steps, whose memory is about to be freed."""
        if self._stream is not None:
            self._stream.synchronize()
        self._replays.clear()

    # --- a step ---------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, size: int) -> None:
        """Take one step on a batch of `size` images, operation by operation."""
        gradients = self.network.backward(self._pixels, self._labels, self._losses, size)
        self._parts.adamw(self.network.moments, gradients, self._rates, self._corrections, self._squares, self._step)
        self._step.number.add_(1)

    def _replay(self, size: int) -> None:
        if self._replays:
            self._replays[size].replay()
        else:
            self.step(size)

    def _capture(self) -> dict[int, torch.cuda.CUDAGraph]:
        """Return a graph of a step for each size of batches, and undo the changes of the steps that warm up."""
        state = self.network.model.state_dict()
        moments = self.network.moments
        changed = [*state.values(), moments.values, moments.first, moments.second]
        changed += [] if moments.copies is None else [moments.copies]
        graphs: dict[int, torch.cuda.CUDAGraph] = {}
        with self._on_stream(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to run cuBLAS")  # the first of a process, and harmless
            before = [value.clone() for value in changed]
            for size in dict.fromkeys(self.sizes):
                self._step.number.zero_()
                self.step(size)
                pool = next((graph.pool() for graph in graphs.values()), None)
                graphs[size] = torch.cuda.CUDAGraph()
                graphs[size].capture_begin(pool, capture_error_mode="thread_local")  # other streams go on
                try:
                    self.step(size)
                finally:
                    graphs[size].capture_end()
            for value, its in zip(changed, before, strict=True):
                value.copy_(its)
        return graphs

    # --- the device -----------------------------------------------------------------------------

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _mark(self) -> list[Waiting]:
        """Return an event that the device reaches after all that was launched; none without a GPU."""
        return [] if self._stream is None else [self._stream.record_event()]


class _Clock:
    """Measures the seconds between two points of a stream, or of this process without one."""

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._points = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if stream is not None else []
        self._begin = self._end = 0.0

    def start(self) -> None:
        self._begin = perf_counter()
        if self._stream is not None:
            self._points[0].record(self._stream)

    def stop(self) -> None:
        self._end = perf_counter()
        if self._stream is not None:
            self._points[1].record(self._stream)

    def seconds(self) -> float:
        """Return the seconds from start to stop; on a GPU once the stop has been reached."""
        return self._points[0].elapsed_time(self._points[1]) / 1000 if self._points else self._end - self._begin


def _until(mark: Waiting) -> Iterator[Waiting]:
    while not mark.query():
        yield mark
