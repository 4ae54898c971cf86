"""The yardstick: FashionMNIST trained as the tutorials of PyTorch and torchvision show it.

Each image is turned into a PIL image and transformed on its own, the worker processes of a
`DataLoader` collect the batches (two, as in the tutorials), the network
computes in fp32 in the default memory layout, Adam has its default implementation, and each
step reads its loss and its number of hits.
Network, images, batch size, learning rate and augmentation are those of the `RunConfig`, so
what differs from `sweeper.train` is how the work is done. Adam without weight decay makes the
same update as AdamW without.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Final, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST, VisionDataset

from sweeper.core.config import RunConfig
from sweeper.data.fashion import MEAN, SIDE, STD
from sweeper.training.images import Data, Images
from sweeper.training.networks import build_model

WORKERS: Final = 2
KNOWN: Final = {
    "augmentation": "crop-flip",
    "schedule": "constant",
    "weight_decay": 0.0,
    "split": "holdout",
    "device": "cpu",
}


class InMemoryFashionMNIST(FashionMNIST):
    """torchvision's data set over images in memory; `__getitem__` is inherited.

    `FashionMNIST.__init__` would look for files, and knows neither the sample nor the holdout.
    """

    def __init__(self, images: Images, transform: transforms.Compose) -> None:
        VisionDataset.__init__(self, root="", transform=transform)
        self.data, self.targets = images.pixels[..., 0], images.labels


class StockEpoch(NamedTuple):
    """One epoch: losses in nats, accuracies in [0, 1], seconds of its two passes."""

    train_loss: float  # while training: augmented, with Dropout
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    epoch_s: float  # of the training pass, start of the workers included
    eval_s: float

    @property
    def metrics(self) -> dict[str, float]:
        """Return what a script logs."""
        return {name: value for name, value in self._asdict().items() if not name.endswith("_s")}


def epochs(config: RunConfig, data: Data) -> Iterator[StockEpoch]:
    """Train `config` on `data`, evaluating after each epoch; `config.precision` is not used.

    Raises:
        ValueError: the configuration asks for something that this recipe does not do.
    """
    _check(config)
    torch.manual_seed(config.seed)
    train_loader, val_loader = loaders(config, data)
    model = build_model(config, data.spec)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    for _ in range(config.epochs):
        start = perf_counter()
        train_loss, train_accuracy = _train_epoch(model, train_loader, loss_fn, optimizer)
        trained = perf_counter()
        val_loss, val_accuracy = _evaluate(model, val_loader, loss_fn)
        yield StockEpoch(train_loss, train_accuracy, val_loss, val_accuracy, trained - start, perf_counter() - trained)


def _check(config: RunConfig) -> None:
    wrong = [f"{name}={getattr(config, name)!r}" for name, value in KNOWN.items() if getattr(config, name) != value]
    if wrong:
        raise ValueError(f"the stock recipe does not do {', '.join(wrong)}; it does {KNOWN}")


def loaders(config: RunConfig, data: Data) -> tuple[DataLoader, DataLoader]:
    """Return loaders of the training and the validation images."""
    plain = [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
    augment = [transforms.RandomCrop(SIDE, padding=2), transforms.RandomHorizontalFlip()]
    train_set = InMemoryFashionMNIST(data.train, transforms.Compose(augment + plain))
    val_set = InMemoryFashionMNIST(data.val, transforms.Compose(plain))
    size = config.batch_size
    return (
        DataLoader(train_set, batch_size=size, shuffle=True, num_workers=WORKERS),
        DataLoader(val_set, batch_size=size, shuffle=False, num_workers=WORKERS),
    )


def _train_epoch(
    model: nn.Module, loader: DataLoader, loss_fn: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Pass over the training images once and return their mean loss and accuracy."""
    model.train()
    total_loss, correct, seen = 0.0, 0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        logits = model(images)  # (B, 10)
        loss = loss_fn(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, correct / seen


@torch.no_grad()
def _evaluate(model: nn.Module, loader: DataLoader, loss_fn: nn.Module) -> tuple[float, float]:
    """Return mean loss and accuracy on the images of `loader`."""
    model.eval()
    total_loss, correct, seen = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        total_loss += loss_fn(logits, labels).item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, correct / seen
