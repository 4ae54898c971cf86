"""`sweeper xray --model --weights`: what the command refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.data.fashion import SAMPLE
from tests.process.conftest import Answer, listing
from tests.support.factories import OWN, PLAIN, write
from tests.support.own_images import write_npz

OF_NET = "--model net.py:build --weights net.pt"
REFUSED = {
    "": "name a run, or a network with both --model and --weights",
    "--model small": "name a run, or a network with both --model and --weights",
    f"demo/0003 {OF_NET}": "name a run, or a network with both --model and --weights",
    "demo/0003 --model-arg width=3": "--model-arg is only for --weights",
    "demo/0003 --dataset sample": "--dataset is only for --weights",
    "--weights net.pt": "name a run, or a network with both --model and --weights",
    f"{OF_NET} --tracking-uri none": "--tracking-uri is only for a recorded run",
    "--model net.py:build --weights nothing.pt": "nothing.pt: no such file",
    "--model net.py:build --weights net.py": "net.py cannot be read as torch weights",
    f"{OF_NET} --dataset own.npz": "3 of another shape (1.weight (16, 784), not (16, 3072)",
    "--model small --weights net.pt": "net.pt does not fit the network, which has 16 tensors: ",
    f"{OF_NET} --conv-dropout 0.2": "placement own has no Dropout in its convolutions",
    f"{OF_NET} --model-arg raet=0.2": "unexpected keyword argument 'raet'",
    f"{OF_NET} --image-size 32": "only pictures of folder:DIR can be resized",
    f"{OF_NET} --device cuda:99": "cuda:99",
    "--model plain.py:build --weights net.pt --placement bn-dropout-last": "the network of plain.py:build has none",
    "--model none.py:build --weights net.pt": "none.py: no such file",
}


@pytest.mark.parametrize(("options", "says"), REFUSED.items())
def test_what_cannot_be_examined_is_refused_in_one_line(
    sweeper: Callable[..., Answer], tmp_path: Path, options: str, says: str
):
    write(tmp_path, OWN)
    write(tmp_path, PLAIN, "plain.py")
    write_npz(tmp_path / "own.npz")
    scope: dict[str, Any] = {}
    exec(OWN, scope)
    torch.save(scope["build"](SAMPLE.spec).state_dict(), tmp_path / "net.pt")
    before, threads = listing(tmp_path), torch.get_num_threads()
    sample = () if "--dataset" in options or options.startswith("demo") else ("--dataset", "sample")
    answer = sweeper(tmp_path, "xray", *options.split(), *sample)
    torch.set_num_threads(threads)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert says in line
    assert listing(tmp_path) == before
