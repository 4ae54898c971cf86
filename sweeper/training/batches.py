"""Cut an epoch's images into batches and augment them; images stay uint8 `(N, H, W, C)` until a step needs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.images import Images, send


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches; a last batch of one image is merged into the one before it."""
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + ([rest] if rest else [])
    if rest == 1 and full and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of all images of an epoch.

    Attributes:
        dy: top of the crop in the padded image, int64 `(N,)`, 0 to twice the padding.
        dx: its left side, int64 `(N,)`.
        flip: images to mirror, bool `(N,)`.
        erase: top, left, height and width of the erased rectangle, int64 `(N, 4)`; height 0 erases nothing.
    """

    dy: Tensor
    dx: Tensor
    flip: Tensor
    erase: Tensor | None

    @classmethod
    def draw(cls, kind: str, images: int, spec: ImageSpec, generator: torch.Generator) -> Augmentation:
        """Draw the shifts, mirrors and erased rectangles of `images` images for the augmentation `kind`."""
        dy = torch.randint(0, 2 * spec.padding + 1, (images,), generator=generator)
        dx = torch.randint(0, 2 * spec.padding + 1, (images,), generator=generator)
        flip = torch.rand(images, generator=generator) < (0.5 if "flip" in kind else 0.0)
        return cls(dy, dx, flip, _draw_rectangles(images, spec, generator) if "erase" in kind else None)

    def to(self, device: torch.device) -> Augmentation:
        """Return the same draws on `device`."""
        erase = None if self.erase is None else send(self.erase, device)
        return Augmentation(send(self.dy, device), send(self.dx, device), send(self.flip, device), erase)

    def apply(self, images: Images, index: Tensor) -> Tensor:
        """Return the images of `index` `(B,)`, augmented: uint8 `(B, H, W, C)`."""
        height, width, _ = images.spec.shape
        windows = images.padded.unfold(1, height, 1).unfold(2, width, 1)  # a view, (N, 2P + 1, 2P + 1, C, H, W)
        batch = windows[index, self.dy[index], self.dx[index]]  # (B, C, H, W)
        batch = torch.where(self.flip[index, None, None, None], batch.flip(3), batch)
        if self.erase is not None:
            top, left, high, wide = self.erase[index, :, None].unbind(1)  # each (B, 1)
            row, column = (torch.arange(side, device=batch.device) for side in (height, width))
            rows = (row >= top) & (row < top + high)  # (B, H)
            columns = (column >= left) & (column < left + wide)
            batch = batch.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
        return batch.permute(0, 2, 3, 1)


def _draw_rectangles(images: int, spec: ImageSpec, generator: torch.Generator) -> Tensor:
    """Draw rectangles for random erasing (Zhong et al. 2017, arXiv 1708.04896).

    In half of the images, a rectangle is set to black. Its area is drawn between 2 and 33 % of
    the image, with a ratio of sides between 0.3 and 3.3; rounded to pixels and clamped to the image, it is 1.5 to 35 %.
    """
    chance, area, ratio, top, left = torch.rand(5, images, generator=generator).unbind(0)
    rows, columns, _ = spec.shape
    area = (0.02 + 0.31 * area) * (rows * columns)
    ratio = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * ratio)
    height = (area * ratio).sqrt().round().clamp(1, rows)
    width = (area / ratio).sqrt().round().clamp(1, columns)
    corner = ((rows + 1 - height) * top).floor(), ((columns + 1 - width) * left).floor()
    height = torch.where(chance < 0.5, height, torch.zeros_like(height))
    return torch.stack([*corner, height, width], dim=1).long()


def batches(images: Images, config: RunConfig, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch in a random order: uint8 `(B, H, W, C)` and labels `(B,)`, on the images' device.

    Order and augmentation are drawn from `generator`, on the CPU, before the first batch.
    """
    order, augmentation = _draw_epoch(images, config, generator)
    for index in order.split(batch_sizes(len(images), config.batch_size)):
        yield _pixels(images, index, augmentation), images.labels[index]


def epoch_images(images: Images, config: RunConfig, generator: torch.Generator) -> Images:
    """Return all images of an epoch in its order, augmented, on their device: `batches` in one piece."""
    order, augmentation = _draw_epoch(images, config, generator)
    return Images(_pixels(images, order, augmentation), images.labels[order], images.spec)


def _draw_epoch(images: Images, config: RunConfig, generator: torch.Generator) -> tuple[Tensor, Augmentation | None]:
    """Draw the order of an epoch `(N,)`, and the augmentations, if any, and send them to the images' device."""
    device = images.pixels.device
    order = send(torch.randperm(len(images), generator=generator), device)
    if config.augmentation == "none":
        return order, None
    return order, Augmentation.draw(config.augmentation, len(images), images.spec, generator).to(device)


def _pixels(images: Images, index: Tensor, augmentation: Augmentation | None) -> Tensor:
    return augmentation.apply(images, index) if augmentation else images.pixels[index]
