"""Images as uint8 tensors: batch them, augment them.

Images stay uint8 and in memory, `(N, 28, 28)`; a batch is indexed, augmented and normalised
when a step needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sweeper.core.config import RunConfig
from sweeper.core.images import SIDE
from sweeper.training.images import PADDING, Images, send


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Sizes of the batches of one epoch; a last batch of one image is merged into the one before it."""
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + ([rest] if rest else [])
    if rest == 1 and full and batch_size > 1:
        sizes[-2:] = [batch_size + 1]
    return sizes


@dataclass(frozen=True)
class Augmentation:
    """What happens to each image of an epoch: drawn for all of them at once.

    `dy`, `dx` int64 `(N,)`: the crop's corner in the padded image, 0 to 2 x PADDING.
    `flip` bool `(N,)`. `erase` int64 `(N, 4)`: top, left, height, width; height 0 erases nothing.
    """

    dy: Tensor
    dx: Tensor
    flip: Tensor
    erase: Tensor | None

    @classmethod
    def draw(cls, images: int, erase: bool, generator: torch.Generator) -> Augmentation:
        """Draw the shifts, mirrors and erased rectangles of `images` images."""
        dy = torch.randint(0, 2 * PADDING + 1, (images,), generator=generator)
        dx = torch.randint(0, 2 * PADDING + 1, (images,), generator=generator)
        flip = torch.rand(images, generator=generator) < 0.5
        return cls(dy, dx, flip, _draw_rectangles(images, generator) if erase else None)

    def to(self, device: torch.device) -> Augmentation:
        """The same draws on `device`."""
        erase = None if self.erase is None else send(self.erase, device)
        return Augmentation(send(self.dy, device), send(self.dx, device), send(self.flip, device), erase)

    def apply(self, images: Images, index: Tensor) -> Tensor:
        """Augment the images of `index` `(B,)`, vectorised over the batch: uint8 `(B, 28, 28)`."""
        windows = images.padded.unfold(1, SIDE, 1).unfold(2, SIDE, 1)  # a view, (N, 5, 5, 28, 28)
        batch = windows[index, self.dy[index], self.dx[index]]  # (B, 28, 28)
        batch = torch.where(self.flip[index, None, None], batch.flip(2), batch)
        if self.erase is None:
            return batch
        top, left, height, width = self.erase[index, :, None].unbind(1)  # each (B, 1)
        pixel = torch.arange(SIDE, device=batch.device)
        rows = (pixel >= top) & (pixel < top + height)  # (B, 28)
        columns = (pixel >= left) & (pixel < left + width)
        return batch.masked_fill(rows[:, :, None] & columns[:, None, :], 0)


def _draw_rectangles(images: int, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896): half of the images lose a rectangle of
    2-33 % of their area with a side ratio between 0.3 and 3.3, rounded to pixels and clamped to the image, which gives
    1.5 to 35 %; it is filled with black."""
    chance, area, ratio, top, left = torch.rand(5, images, generator=generator).unbind(0)
    area = (0.02 + 0.31 * area) * SIDE**2
    ratio = torch.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * ratio)
    height = (area * ratio).sqrt().round().clamp(1, SIDE)
    width = (area / ratio).sqrt().round().clamp(1, SIDE)
    corner = ((SIDE + 1 - height) * top).floor(), ((SIDE + 1 - width) * left).floor()
    height = torch.where(chance < 0.5, height, torch.zeros_like(height))
    return torch.stack([*corner, height, width], dim=1).long()


def batches(images: Images, config: RunConfig, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a fresh random order: uint8 `(B, 28, 28)` and labels `(B,)`, on the images' device.

    Order and augmentation are drawn from `generator`, on the CPU, before the first batch.
    """
    device = images.pixels.device
    order, augmentation = _draw_epoch(len(images), config, generator)
    order, augmentation = order.to(device), augmentation and augmentation.to(device)
    for index in order.split(batch_sizes(len(images), config.batch_size)):
        pixels = augmentation.apply(images, index) if augmentation else images.pixels[index]
        yield pixels, images.labels[index]


def epoch_images(images: Images, config: RunConfig, generator: torch.Generator) -> Images:
    """What the `batches` of an epoch are cut from: all images in its order, augmented, on their device."""
    device = images.pixels.device
    order, augmentation = _draw_epoch(len(images), config, generator)
    order = send(order, device)
    pixels = augmentation.to(device).apply(images, order) if augmentation else images.pixels[order]
    return Images(pixels, images.labels[order])


def _draw_epoch(images: int, config: RunConfig, generator: torch.Generator) -> tuple[Tensor, Augmentation | None]:
    """The order of an epoch `(N,)`, and what happens to each image in it, or None for nothing."""
    order = torch.randperm(images, generator=generator)
    if config.augmentation == "none":
        return order, None
    return order, Augmentation.draw(images, config.augmentation == "crop-flip-erase", generator)
