"""Images of one's own by the commands: trained on, searched, replayed, moved, changed and refused."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from sweeper.core.images import Array
from sweeper.data.fashion import CLASSES
from tests.process.conftest import Answer, listing
from tests.support.factories import OWN, write
from tests.support.own_images import DIGITS, KEPT, write_folder, write_npz

Sweeper = Callable[..., Answer]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-images.md"
SPACE = "batch_size: [16, 32]\nplacement: [bn, dropout-bn]\nconv_dropout: {low: 0.05, high: 0.3}\n"
ALIKE = ("--exp", "1", "--epochs", "1", "--tracking-uri", "offline", "--json")


class Own(NamedTuple):
    """A data set of one's own: its name, and its description as runs record it."""

    name: str
    classes: list[str]
    shape: list[int]
    options: tuple[str, ...] = ()


def digits(home: Path) -> Own:
    (home / "own.py").write_text(DIGITS)
    return Own("own.py:digits", list("0123456789"), [8, 8, 1])


def pictures(home: Path) -> Own:
    write_folder(home / "pictures")
    names = sorted(name.replace("/", " ") for name in CLASSES[:KEPT])
    return Own("folder:pictures", names, [32, 32, 3], ("--engine", "processes"))


def npz(home: Path) -> Own:
    write_npz(home / "own.npz")
    return Own("own.npz", list("0123456"), [32, 32, 3])


@pytest.fixture(params=[digits, pictures, npz], ids=lambda make: make.__name__)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Own:
    (tmp_path / "space.yaml").write_text(SPACE)
    made: Own = request.param(tmp_path)
    return made


def started(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    return found


def test_a_run_names_its_images_and_replays_with_the_same_bits(sweeper: Sweeper, tmp_path: Path, own: Own):
    done = sweeper(tmp_path, "train", "--dataset", own.name, "--batch-size", "16", "--split", "holdout", *ALIKE)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    run = Path(result["journal"])
    start = started(run)
    assert start["dataset"]["profile"]["shape"] == own.shape
    assert start["dataset"]["profile"]["classes"] == own.classes
    assert start["dataset"]["sha256"] == start["params"]["dataset_sha256"] == start["tags"]["sweeper.dataset_sha256"]
    assert start["tags"]["sweeper.image_shape"] == "x".join(map(str, own.shape))
    assert start["tags"]["sweeper.classes"] == ", ".join(own.classes)
    assert str(tmp_path) in start["params"]["dataset"]
    rows = list(csv.reader((run / "artifacts/evaluation/confusion.csv").read_text().splitlines()))
    assert rows[0] == ["true class", *own.classes, "accuracy"]
    assert sum(int(count) for row in rows[1:] for count in row[1:-1]) == start["dataset"]["profile"]["val_images"]

    again = sweeper(tmp_path, "replay", str(run), "--tracking-uri", "none", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) | {"environment": []} == {
        "identical": True, "epochs": 1, "weights": True, "difference": "", "environment": [],
        "config": result["config"],
    }  # fmt: skip


def test_a_sweep_ends_with_a_champion_that_replays(sweeper: Sweeper, tmp_path: Path, own: Own):
    words = ("optimize", "--dataset", own.name, "--trials", "2", "--space", "space.yaml", *ALIKE,
             *(own.options or ("--engine", "serial")))  # fmt: skip
    done = sweeper(tmp_path, *words)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    (champion,) = (tmp_path / "journal" / "sweep").glob("champion-*")
    evaluation = champion / "artifacts" / "evaluation"
    rows = list(csv.reader((evaluation / "confusion.csv").read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == own.classes
    with Image.open(evaluation / "errors.png") as picture:
        in_colour = sum(len(set(pixel[:3])) > 1 for _, pixel in picture.convert("RGB").getcolors(1 << 24) or [])
    assert (in_colour > 500) == (own.shape[2] == 3)  # in grey, only the letters have colours
    page = Path(result["report"]).read_text()
    assert all(name in page for name in own.classes)

    assert sweeper(tmp_path, "replay", str(champion), "--tracking-uri", "none").code == 0
    assert json.loads(sweeper(tmp_path, *words).out)["added"] == 0  # it goes on


COUNTED = f"""
{DIGITS}

def counted():
    with open("reads.txt", "a") as file:
        file.write("read ")
    return digits()
"""


@pytest.mark.parametrize("words", ["train", "optimize --trials 2 --engine serial --no-final"])
def test_an_own_network_and_the_search_share_one_reading_of_the_images(sweeper: Sweeper, tmp_path: Path, words: str):
    (tmp_path / "own.py").write_text(COUNTED)
    write(tmp_path, OWN)
    done = sweeper(tmp_path, *words.split(), "--model", "net.py:build", "--dataset", "own.py:counted", *ALIKE)
    assert done.code == 0, done.err
    assert (tmp_path / "reads.txt").read_text().split() == ["read"]


def test_images_may_move_and_must_not_change(sweeper: Sweeper, tmp_path: Path):
    (tmp_path / "space.yaml").write_text(SPACE)
    write_folder(tmp_path / "pictures")

    def optimize(folder: str) -> Answer:
        return sweeper(tmp_path, "optimize", "--dataset", f"folder:{folder}", "--trials", "1", "--space", "space.yaml",
                       "--no-final", "--engine", "serial", *ALIKE)  # fmt: skip

    def others(folder: str) -> list[Answer]:
        moved = ("--dataset", f"folder:{folder}", "--tracking-uri", "offline")
        return [
            sweeper(tmp_path, "replay", "sweep/0000", *moved),
            sweeper(tmp_path, "confirm", "sweep", "--top", "1", "--seeds", "1", "--engine", "serial", *moved),
        ]

    assert optimize("pictures").code == 0
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert "pictures cannot be read" in sweeper(tmp_path, "replay", "sweep/0000").err
    assert [answer.code for answer in (optimize("moved"), *others("moved"))] == [0, 0, 0]

    next((tmp_path / "moved").rglob("*.png")).unlink()
    before = listing(tmp_path)
    for answer in others("moved"):
        assert answer.code == 1
        assert f"the images of folder:{tmp_path}/moved have changed since they were recorded" in answer.err
        assert len(answer.err.splitlines()) == 1
    (tmp_path / "moved").rename(tmp_path / "pictures")
    changed = optimize("pictures")
    assert changed.code == 2
    assert f"the images of folder:{tmp_path}/pictures have changed since it was created" in changed.err
    (tmp_path / "pictures").rename(tmp_path / "moved")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["train", "optimize --trials 1", "reproduce"])
def test_a_name_that_is_no_data_set_is_refused(sweeper: Sweeper, tmp_path: Path, command: str):
    answer = sweeper(tmp_path, *command.split(), "--dataset", "folders:x/y")
    assert answer.code == 2
    assert "folders:x/y" in answer.err
    assert listing(tmp_path) == {}


PIXELS = np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
LABELS = np.arange(40) % 2
FILES: Mapping[str, dict[str, Array]] = {
    "floats": {"x_train": PIXELS / 255},
    "labels": {"y_test": np.array([0, 1, 2])},
    "empty": {"y_train": LABELS * 2},
    "shapes": {"x_test": PIXELS[:3, :, :, None].repeat(3, 3)},
}


def prepare_bad(home: Path) -> None:
    """Write a folder with a picture that is none, a function that fails, and files of bad arrays."""
    write_folder(home / "pictures", images=60)
    (home / "pictures" / "Coat" / "0009.png").write_bytes(b"no picture")
    (home / "hat").mkdir()
    for name in ("coat", "hat", "shoe"):
        (home / "classes" / name).mkdir(parents=True)
    for name in ("coat", "shoe"):
        for number in range(4):
            Image.fromarray(PIXELS[number]).save(home / "classes" / name / f"{number}.png")
    (home / "own.py").write_text("\ndef fails():\n    raise ValueError('of mine')\n")
    good = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:3], "y_test": LABELS[:3]}
    for name, arrays in FILES.items():
        np.savez(home / f"{name}.npz", **(good | arrays))  # type: ignore[arg-type]
    with zipfile.ZipFile(home / "large.npz", "w") as archive:
        for name in good:
            archive.writestr(f"{name}.npy", b"nobody reads this")
        archive.getinfo("x_train.npy").file_size = 10**13  # as the table of contents then says


BAD: Mapping[str, str] = {
    "folder:nowhere": "{home}/nowhere cannot be read (No such file or directory). Name another folder.",
    "folder:own.py": "{home}/own.py cannot be read (Not a directory). Name another folder.",
    "folder:hat": "{home}/hat holds no pictures. Put them into a folder for each class, {home}/hat/CLASS/*.png.",
    "folder:pictures": "{home}/pictures/Coat/0009.png cannot be read as a picture (cannot identify image file). "
    "Replace it, or move it away.",
    "folder:classes": "folder:{home}/classes: class 'hat' (label 1) has no training image. Each class needs at least "
    "2, one to train and one to validate on. Labels must run from 0 to the number of classes - 1.",
    "nowhere.npz": "{home}/nowhere.npz cannot be read as an npz file (No such file or directory). Write it with "
    "numpy.savez and the arrays x_train, y_train, x_test, y_test.",
    "floats.npz": "{home}/floats.npz: x_train holds float64. Images must be uint8, 0 to 255. Convert them: x_train = "
    '(x_train * 255).round().astype("uint8")',
    "labels.npz": "{home}/labels.npz: y_test has the label 2, but y_train has 2 classes. Labels must run from 0 to "
    "the number of classes - 1.",
    "empty.npz": "{home}/empty.npz: class '1' (label 1) has no training image. Each class needs at least 2, one to "
    "train and one to validate on. Labels must run from 0 to the number of classes - 1.",
    "shapes.npz": "{home}/shapes.npz: the images of x_train are 8x8x1, those of x_test 8x8x3. Give both the "
    "same shape.",
    "large.npz": "{home}/large.npz: the images need 30000.0 GB of memory, and only [0-9.]+ GB are free. Use fewer or "
    "smaller images, or a machine with more memory.",
    "own.py:fails": "{home}/own.py:fails failed in line 3 of {home}/own.py: ValueError: of mine",
    "own.py:nowhere": "{home}/own.py has no function 'nowhere'. Name one that it defines.",
    "nowhere.py:images": "{home}/nowhere.py: no such file. Name a function as file.py:function.",
    "nowhere:images": "nowhere:images: no module 'nowhere' is installed. Install it, or name a function as "
    "file.py:function.",
    "mnist": "{home} does not hold mnist in torchvision's layout (Dataset not found). Name torchvision's root with "
    "--data-dir, or leave --data-dir and SWEEPER_DATA_DIR out to download it.",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_line_and_leave_nothing(sweeper: Sweeper, tmp_path: Path, name: str):
    prepare_bad(tmp_path)
    before = listing(tmp_path)
    line = re.escape(f"error: {BAD[name].format(home=tmp_path)}\n").replace(re.escape("[0-9.]+"), "[0-9.]+")
    for command in ("train", "optimize --trials 1"):
        answer = sweeper(tmp_path, *command.split(), "--dataset", name, "--data-dir", str(tmp_path))
        assert answer.code == 1
        assert re.fullmatch(line, answer.err), answer.err
    assert listing(tmp_path) == before


def test_the_page_can_be_followed(sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    env = {"SWEEPER_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "offline"}
    blocks = re.findall(r"^```(bash|python)(?: file=(\S+))?\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    for language, name, block in blocks:
        script = tmp_path / (name or "block.py")
        if language == "python":
            script.write_text(block)
            if not name:
                runpy.run_path(str(script))
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line)
            if program == "sweeper":
                done = sweeper(tmp_path, *words, env=env)
                assert done.code == 0, done.err
            elif program == "mv":
                (tmp_path / words[0]).rename(tmp_path / words[1])
            else:
                assert line == "export SWEEPER_HOME=$PWD"
    assert "identical: 2 epochs and weights" in done.out
