"""Read the weights of a network from a user's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sweeper.core.errors import UsageError, one_line
from sweeper.core.text import counted

SAFETENSORS: Final = ".safetensors"
NAMED: Final = 3  # names that a message holds


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of `FILE.safetensors`, or of a state_dict that `torch.save` wrote to any other file, by name.

    No code in the file is executed.

    Raises:
        UsageError: the file is missing or damaged, or does not hold weights alone.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file. Name a weights file, FILE{SAFETENSORS} or FILE.pt.")
    try:
        if file.suffix == SAFETENSORS:
            return safetensors.torch.load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        raise UsageError(f"{file} is not a valid safetensors file ({one_line(error, 200)}). Save it again.") from None
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - of many kinds; their words propose to run the code of the file
        raise UsageError(f"{file} cannot be read as torch weights. {_advice(file)}") from None
    if not isinstance(found, Mapping):
        raise UsageError(f"{file} holds {type(found).__name__}, not network weights. {_advice(file)}")
    if others := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise UsageError(f"{file} holds more than tensors: {_first(others)}. {_advice(file)}")
    return dict(found)


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Refuse the weights of a file that do not fit `model`. Those that fit are loaded into it.

    Raises:
        UsageError: names or shapes differ; the message counts the tensors, and names the first.
    """
    own: dict[str, Any] = model.state_dict()
    shapes = {
        name: f"{name} {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    }
    fitting = {name: value for name, value in weights.items() if name not in shapes}
    missing, unknown = model.load_state_dict(fitting, strict=False)
    found = {
        "of another shape": list(shapes.values()),
        "missing": [name for name in missing if name not in shapes],
        "unknown": unknown,
    }
    if differences := [f"{len(names)} {what} ({_first(names)})" for what, names in found.items() if names]:
        raise UsageError(
            f"{file} does not fit the network, which has {counted(len(own), 'tensor')}: {', '.join(differences)}. Name "
            "the network, its arguments, the placement and the data set that the weights were trained with."
        )


def _first(names: Sequence[Any]) -> str:
    """Return the first names, and the number of the others."""
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(str(name)[:100] for name in names[:NAMED]) + more


def _advice(file: Path) -> str:
    return f'Save the weights alone: torch.save(model.state_dict(), "{file.name}")'
