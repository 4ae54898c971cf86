"""A network's blocks, as a line that shows the order of their layers and as the code that builds them.

Both are read from the network that is trained: from what each method of `Layers` gave it last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from torch import nn

from sweeper.core.config import RunConfig
from sweeper.core.images import ImageSpec
from sweeper.training.networks.build import factory_of
from sweeper.training.networks.layers import Layers, Residual

BLOCKS: Final = {  # methods of `Layers`, and what they build
    "conv": "each convolution", "stem": "first convolution", "residual": "each block", "linear": "hidden layer",
    "head": "head",
}  # fmt: skip


def drawing(config: RunConfig, images: ImageSpec) -> tuple[str, str]:
    """Draw the blocks of the network of `config`, which takes an argument `layers`.

    Returns:
        A line for each kind of block, and the code that builds them: of the last one of each kind.
    """
    layers = Layers(config)
    factory_of(config)(images, layers=layers, **dict(config.model_args))
    lines = [f"{BLOCKS[method]}: {_arrows(block)}" for method, block in layers.blocks.items()]
    code = [_code(method, block) for method, block in layers.blocks.items()]
    return "\n".join(lines), "\n".join(code)


def _arrows(block: nn.Module) -> str:
    if isinstance(block, Residual):
        return f"[{_arrows(block.branch)}] + shortcut"
    if isinstance(block, nn.Sequential):
        return " → ".join(_arrows(part) for part in block if not isinstance(part, nn.Flatten))
    name = next(name for kind, (name, _) in LAYERS.items() if isinstance(block, kind))
    return f"{name} {block.p:g}" if isinstance(block, nn.Dropout | nn.Dropout2d) else name


def _code(name: str, block: nn.Sequential) -> str:
    if block and isinstance(block[0], Residual):
        after = f"; behind the sum: {', '.join(map(_line, block[1:]))}" if len(block) > 1 else ""
        return f"# a block returns shortcut(x) + branch(x){after}\n{_code('branch', block[0].branch)}"
    return "\n".join([f"{name} = nn.Sequential(", *(f"    {_line(part)}," for part in block), ")"])


def _line(layer: nn.Module) -> str:
    return next(code(layer) for kind, (_, code) in LAYERS.items() if isinstance(layer, kind))


def _conv(layer: nn.Module) -> str:
    conv = cast("nn.Conv2d", layer)
    more = [f"stride={conv.stride[0]}"] if conv.stride != (1, 1) else []
    more += [f"padding={conv.padding[0]}"] if conv.padding != (0, 0) else []
    more += ["bias=False"] if conv.bias is None else []
    return f"nn.Conv2d({', '.join([str(conv.in_channels), str(conv.out_channels), str(conv.kernel_size[0]), *more])})"


LAYERS: Final[dict[type[nn.Module], tuple[str, Callable[..., str]]]] = {
    nn.Conv2d: ("Conv", _conv),
    nn.BatchNorm2d: ("BatchNorm", lambda layer: f"nn.BatchNorm2d({layer.num_features})"),
    nn.BatchNorm1d: ("BatchNorm", lambda layer: f"nn.BatchNorm1d({layer.num_features})"),
    nn.ReLU: ("ReLU", lambda _: "nn.ReLU()"),
    nn.MaxPool2d: ("MaxPool", lambda _: "nn.MaxPool2d(2)"),
    nn.AdaptiveAvgPool2d: ("AvgPool", lambda _: "nn.AdaptiveAvgPool2d(1)"),
    nn.Flatten: ("Flatten", lambda _: "nn.Flatten()"),
    nn.Dropout2d: ("Dropout2d", lambda layer: f"nn.Dropout2d({layer.p:g})"),
    nn.Dropout: ("Dropout", lambda layer: f"nn.Dropout({layer.p:g})"),
    nn.Linear: ("Linear", lambda layer: f"nn.Linear({layer.in_features}, {layer.out_features})"),
}
