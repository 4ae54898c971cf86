"""Many trainings as one: networks of one shape, stacked, each with its own weights, images, masks and rates.

Members differ in seed, Dropout rates, learning rate and its schedule, weight decay and augmentation. Tensors carry
the members in front, `(K, …)`; activations of convolutions side by side, `(B, K·C, H, W)`, so that a grouped
convolution, and BatchNorm's statistics per channel, keep them apart. A member draws what its training alone
would draw, and reaches the same weights up to rounding: `train.train` is the slow reference.

It is a way to train small networks on a CPU. On a GPU trainings advance side by side (engine/concurrent.py), which is
faster there (docs/log.md), and need not be of one shape.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from time import perf_counter
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sweeper.core.config import RunConfig
from sweeper.core.errors import Diverged
from sweeper.core.results import EpochResult, Evaluation, TrainResult
from sweeper.training.batches import batch_sizes, stacked_batches
from sweeper.training.device import autocast
from sweeper.training.evaluate import EVAL_BATCH, score, subset, to_input
from sweeper.training.failures import check_converging
from sweeper.training.images import Data, Images, standardize
from sweeper.training.network import build_model
from sweeper.training.norm import NarrowBatchNorm2d, narrow_batch_norm
from sweeper.training.optimizer import BETAS, EPSILON, learning_rate
from sweeper.training.seeds import mask_generator, order_generator, seeded
from sweeper.training.stability import GRAD_NORM_EVERY, Recorder

OWN_FIELDS: Final = {
    "experiment", "placement", "conv_dropout", "head_dropout", "augmentation", "lr", "weight_decay", "schedule", "seed",
}  # fmt: skip

Step = dict[int, EpochResult | Diverged]
Training = Generator[Step, frozenset[int], dict[int, TrainResult]]


def signature(config: RunConfig) -> str:
    """Equal for configurations that can be trained as one."""
    fields = config.model_dump(mode="json", exclude=OWN_FIELDS)
    return repr((config.network_placement.value, sorted(fields.items())))


class Stack:
    """The networks of K configurations of one signature, as one.

    Attributes:
        members: which of the configurations are still in it, by their place in the list.
        values: parameters and running statistics by their name in a solo network, `(K, …)`.
    """

    def __init__(self, configs: Sequence[RunConfig], device: torch.device) -> None:
        self.configs = list(configs)
        self.device = device
        self._let_in(range(len(configs)))
        solo = []
        for config in configs:
            with seeded(config, epoch=0):
                solo.append(build_model(config))
        self.layers = list(solo[0].named_children())
        parameters = {name for name, _ in solo[0].named_parameters()}
        self.values = {
            name: torch.stack([model.state_dict()[name] for model in solo]).to(device) for name in solo[0].state_dict()
        }
        self.parameters = {n: v.requires_grad_() for n, v in self.values.items() if n in parameters}
        self.first = {name: torch.zeros_like(v) for name, v in self.parameters.items()}
        self.second = {name: torch.zeros_like(v) for name, v in self.parameters.items()}
        self.steps = 0

    def keep(self, members: Sequence[int]) -> None:
        """Let go of all but these members."""
        rows = torch.tensor([self.members.index(m) for m in members], dtype=torch.int64, device=self.device)
        for tensors in (self.values, self.first, self.second):
            for name in tensors:
                tensors[name] = tensors[name].detach().index_select(0, rows)
        self.parameters = {name: self.values[name].requires_grad_() for name in self.parameters}
        self._let_in(members)

    def _let_in(self, members: Sequence[int]) -> None:
        """Set the members, and put what differs between them on the device."""
        self.members = list(members)
        self._decay = torch.tensor([self.configs[m].weight_decay for m in members], device=self.device)

    def generators(self, epoch: int) -> list[torch.Generator]:
        """What each member's masks of an epoch are drawn from."""
        return [mask_generator(self.configs[m], epoch, self.device) for m in self.members]

    def forward(self, x: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """Standardised images `(B, K, 28, 28)`, one channel a member, to logits `(K, B, 10)`.

        With the `generators` of an epoch the networks are in training mode, without in eval mode.
        """
        count = len(self.members)
        for name, layer in self.layers:
            match layer:
                case nn.Conv2d():
                    x = F.conv2d(x, self._of(name, "weight").flatten(0, 1), self._bias(name), padding=layer.padding,
                                 groups=count)  # fmt: skip
                case nn.Flatten():
                    x = x.unflatten(1, (count, -1)).flatten(2).transpose(0, 1)  # (K, B, F)
                case nn.Linear():
                    x = torch.baddbmm(self._of(name, "bias")[:, None], x, self._of(name, "weight").transpose(1, 2))
                case nn.BatchNorm2d():
                    x = self._normalise(name, layer, x, training=generators is not None)
                case nn.BatchNorm1d():
                    side_by_side = x.transpose(0, 1).flatten(1)  # (B, K·F)
                    side_by_side = self._normalise(name, layer, side_by_side, training=generators is not None)
                    x = side_by_side.unflatten(1, (count, -1)).transpose(0, 1)
                case nn.Dropout2d() | nn.Dropout():
                    x = x if generators is None else x * self._mask(x, generators)
                case _:
                    x = layer(x)
        return x

    def _of(self, layer: str, what: str) -> Tensor:
        return self.values[f"{layer}.{what}"]

    def _bias(self, layer: str) -> Tensor | None:
        bias = self.values.get(f"{layer}.bias")
        return None if bias is None else bias.flatten()

    def _normalise(self, name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, *, training: bool) -> Tensor:
        mean, var = self._of(name, "running_mean").view(-1), self._of(name, "running_var").view(-1)
        if training:
            self.values[f"{name}.num_batches_tracked"] += 1
        weight, bias = self._of(name, "weight").flatten(), self._of(name, "bias").flatten()
        normalise = narrow_batch_norm if isinstance(layer, NarrowBatchNorm2d) else F.batch_norm
        return normalise(x, mean, var, weight, bias, training, layer.momentum or 0.0, layer.eps)

    def _mask(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """What Dropout multiplies `x` with: 0 or 1 / (1 - rate), for each channel of an image or for each feature.

        In the order of memory of a solo network, so that each generator gives what it would have given there.
        """
        channels = x.dim() == 4
        name, dim = ("conv_dropout", 1) if channels else ("head_dropout", 0)  # dim: that of the members
        size = (x.shape[0], x.shape[1] // len(self.members)) if channels else tuple(x.shape[1:])
        rates = [getattr(self.configs[m], name) for m in self.members]
        each = [self._draw(size, rate, g, x) for rate, g in zip(rates, generators, strict=True)]
        mask = torch.stack(each, dim=dim)
        return mask.flatten(1)[:, :, None, None] if channels else mask

    @staticmethod
    def _draw(size: tuple[int, ...], rate: float, generator: torch.Generator, like: Tensor) -> Tensor:
        if rate == 0:  # as torch does it: nothing is drawn
            return like.new_ones(size)
        return like.new_empty(size).bernoulli_(1 - rate, generator=generator).div_(1 - rate)

    @torch.no_grad()
    def step(self, rates: Tensor) -> None:
        """One step of AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) at the members' learning rates `(K,)`;
        biases and BatchNorm's parameters do not decay."""
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in BETAS)
        for name, value in self.parameters.items():
            gradient, shape = value.grad, (-1, *[1] * (value.dim() - 1))
            assert gradient is not None
            if value.dim() > 2:
                value.mul_(1 - (rates * self._decay).view(shape))
            self.first[name].lerp_(gradient, 1 - BETAS[0])
            self.second[name].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            spread = self.second[name].sqrt().div_(math.sqrt(second)).add_(EPSILON)
            value.addcmul_(self.first[name] / spread, (-rates / first).view(shape))
            value.grad = None

    def gradient_norms(self) -> Tensor:
        """The L2 norm of each member's gradient, `(K,)`."""
        squares = [v.grad.flatten(1).square().sum(1) for v in self.parameters.values() if v.grad is not None]
        return torch.stack(squares).sum(0).sqrt()

    def weights(self, member: int) -> dict[str, Tensor]:
        """The state of one member's network, as a solo training returns it."""
        row = self.members.index(member)
        return {name: value[row].detach().cpu().contiguous().clone() for name, value in self.values.items()}

    @torch.inference_mode()
    def evaluate(self, images: Images) -> list[Evaluation]:
        """Each member in eval mode on the same images."""
        count = len(self.members)
        size = max(1, EVAL_BATCH[self.device.type] // count)
        with autocast(self.configs[0]):
            parts = [
                self.forward(to_input(pixels).expand(-1, count, -1, -1), None).float()
                for pixels in images.pixels.split(size)
            ]
        return [score(logits, images.labels) for logits in torch.cat(parts, dim=1)]


def train_members(configs: Sequence[RunConfig], data: Data) -> Training:
    """Train `configs`, all of one signature, in step.

    Yields:
        For each epoch, what each member came to, by its place in `configs`: an `EpochResult`, whose `stack` says
        how many were trained in it and which row was its own, or `Diverged`, which ends it. Send the members to be
        let go of. The generator's value holds the results of those that are left.
    """
    device = torch.device(configs[0].device)
    images, val = data.train.to(device), data.val.to(device)
    clean = subset(images, len(val))
    stack = Stack(configs, device)
    steps = len(batch_sizes(len(images), configs[0].batch_size))
    recorders = [Recorder(steps, device) for _ in configs]
    histories: list[list[EpochResult]] = [[] for _ in configs]
    judged: dict[int, Evaluation] = {}
    for epoch in range(1, configs[0].epochs + 1):
        seconds, rates = _train_epoch(stack, images, epoch, steps, recorders)
        on_train, on_val = stack.evaluate(clean), stack.evaluate(val)
        results: Step = {}
        for row, member in enumerate(stack.members):
            recorder = recorders[member]
            recorder.end_epoch()
            norms = recorder.norms.mean().item()
            result = EpochResult(
                epoch, on_train[row].loss, on_train[row].accuracy, on_val[row].loss, on_val[row].accuracy,
                on_val[row].ece, rates[row], norms, seconds / len(stack.members),
                len(images) * len(stack.members) / seconds, (len(stack.members), row),
            )  # fmt: skip
            try:
                running = recorder.losses.mean().item()
                check_converging(configs[member], epoch, rates[row], running, result.train_loss, result.val_loss)
            except Diverged as error:
                results[member] = error
            else:
                results[member] = result
                histories[member].append(result)
                judged[member] = on_val[row]
        let_go = yield results
        ended = {m for m, result in results.items() if isinstance(result, Diverged)} | (let_go or frozenset())
        if ended:
            stack.keep([m for m in stack.members if m not in ended])
        if not stack.members:
            return {}
    return {
        m: TrainResult(tuple(histories[m]), stack.weights(m), judged[m], stability=recorders[m].stability)
        for m in stack.members
    }


def _train_epoch(
    stack: Stack, images: Images, epoch: int, steps: int, recorders: Sequence[Recorder]
) -> tuple[float, list[float]]:
    """One epoch of every member; the seconds it took, and their learning rates at its last step."""
    configs = [stack.configs[m] for m in stack.members]
    masks = stack.generators(epoch)
    orders = [order_generator(config, epoch) for config in configs]
    start = perf_counter()
    rates = _learning_rates(configs, epoch, steps)
    rates_there = torch.tensor(rates, device=stack.device)  # (steps, K)
    losses = torch.zeros(steps, len(configs), device=stack.device)
    norms = torch.zeros(math.ceil(steps / GRAD_NORM_EVERY), len(configs), device=stack.device)
    for step, (pixels, labels) in enumerate(stacked_batches(images, configs, orders)):
        x = standardize(pixels).permute(0, 3, 1, 2)  # (B, K, 28, 28), channels last
        with autocast(configs[0]):
            logits = stack.forward(x, masks)
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
        loss = loss.view(labels.shape).mean(1)  # (K,)
        loss.sum().backward()
        losses[step] = loss.detach()
        if step % GRAD_NORM_EVERY == 0:
            norms[step // GRAD_NORM_EVERY] = stack.gradient_norms()
        stack.step(rates_there[step])
    losses.cpu()  # waits for the device: the timer may stop
    seconds = perf_counter() - start
    for row, member in enumerate(stack.members):
        recorders[member].losses.copy_(losses[:, row])
        recorders[member].norms.copy_(norms[:, row])
    return seconds, rates[-1]


def _learning_rates(configs: Sequence[RunConfig], epoch: int, steps: int) -> list[list[float]]:
    """Those of each step of an epoch, each with one a member."""
    return [
        [learning_rate(c, step, c.epochs * steps) for c in configs]
        for step in range((epoch - 1) * steps, epoch * steps)
    ]
