"""Weights in files: read without running their code, and refused if they are those of another network."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from sweeper.core.errors import UsageError
from sweeper.training.networks import check_fit, load_weights, read_weights


def net(width: int = 4, depth: int = 1) -> nn.Sequential:
    return nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(depth)])


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_weights_in_a_file_are_loaded_as_they_were(tmp_path: Path, name: str, kind: torch.dtype):
    trained, file = net().to(kind), tmp_path / name
    save: Callable[..., Any] = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save(trained.state_dict(), file)
    weights, model = read_weights(file), net()
    check_fit(model, weights, file)
    for found, expected in zip(load_weights(net(), weights).parameters(), trained.parameters(), strict=True):
        assert torch.equal(found, expected.float())


def test_weights_from_before_batches_were_counted_fit(tmp_path: Path):
    weights = {name: value for name, value in net().state_dict().items() if not name.endswith("num_batches_tracked")}
    check_fit(net(), weights, tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing.pt": (lambda file: None, "no such file"),
    "empty.pt": (lambda file: file.touch(), "cannot be read as torch weights"),
    "text.pt": (lambda file: file.write_text("0.1, 0.2"), "cannot be read as torch weights"),
    "code.pt": (lambda file: torch.save({"a": Harmful()}, file), "cannot be read as torch weights"),
    "module.pt": (lambda file: torch.save(net(), file), "cannot be read as torch weights"),
    "tensor.pt": (lambda file: torch.save(torch.ones(1), file), "holds Tensor, not network weights"),
    "checkpoint.pt": (
        lambda file: torch.save({"epoch": 3, "optimizer": {}, "state_dict": OrderedDict(net().state_dict())}, file),
        "holds more than tensors: epoch; optimizer; state_dict. Save the weights alone: torch.save(model.state_dict()",
    ),
    "empty.safetensors": (lambda file: file.touch(), "is not a valid safetensors file"),
    "cut.safetensors": (
        lambda file: file.write_bytes(safetensors.torch.save(net().state_dict())[:-1]),
        "is not a valid safetensors file",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write, says = FILES[name]
    write(tmp_path / name)
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        read_weights(tmp_path / name)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / name))
    assert "weights_only" not in line
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (net(3), "6 of another shape (0.0.weight (3, 3), not (4, 4); 0.0.bias (3,), not (4,); 0.1.weight (3,), not "
         "(4,); and 3 more)"),
        (net(4, 2), "7 unknown (1.0.weight; 1.0.bias; 1.1.weight; and 4 more)"),
        (nn.Sequential(net()), "6 missing (0.0.weight; 0.0.bias; 0.1.weight; and 3 more), 7 unknown (0.0.0.weight; "),
        (net()[0], "6 missing"),
    ],
    ids=["other width", "other depth", "in a wrapper", "a part"],
)  # fmt: skip
def test_weights_of_another_network_are_counted_and_the_first_named(tmp_path: Path, weights: nn.Module, says: str):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        check_fit(net(), weights.state_dict(), tmp_path / "net.pt")
    assert str(caught.value).startswith(f"{tmp_path}/net.pt does not fit the network, which has 7 tensors: ")
