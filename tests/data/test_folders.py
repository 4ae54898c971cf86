from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeper.data.folders import folder_source
from sweeper.data.own import OwnSource
from tests.support.little import refusal
from tests.support.own_images import coloured, cut, write_folder, write_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """150 pictures in colour, 32x32, of seven classes."""
    return write_folder(tmp_path / "own")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """100 training and 50 test pictures, 28x28 and grey."""
    for part, images in (("train", 100), ("test", 50)):
        found = cut(images, part)
        write_pictures(tmp_path / "own" / part, found.pixels, found.labels)
    return tmp_path / "own"


def source_of(folder: Path, side: int = 0) -> OwnSource:
    return folder_source(f"folder:{folder}", side)


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def one(folder: Path) -> Path:
    """A picture in the middle."""
    return pictures(folder)[20]


def test_train_and_test_parts_are_read_as_they_are(parts: Path):
    source = source_of(parts)
    spec = source.spec
    assert spec.classes == ("Coat", "Dress", "Pullover", "Sandal", "Shirt", "T-shirt top", "Trouser")
    assert (spec.shape, spec.train_images, spec.test_images) == ((28, 28, 1), 100, 50)
    for part in ("train", "test"):
        found = source.read(part)
        for path, pixels, label in zip(pictures(parts / part), found.pixels, found.labels, strict=True):
            assert spec.classes[label] == path.parent.name
            assert np.array_equal(np.asarray(Image.open(path)), pixels[..., 0])
    assert source.remarks == ()


def test_without_a_test_part_a_stratified_share_becomes_it_always_the_same(folder: Path):
    source = source_of(folder)
    train, test = source.read("train"), source.read("test")
    assert (len(train), len(test)) == (128, 22)
    assert source.spec.shape == (32, 32, 3)
    assert {tuple(picture.ravel()) for picture in [*train.pixels, *test.pixels]} == {
        tuple(np.asarray(Image.open(path)).ravel()) for path in pictures(folder)
    }
    shares = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert shares.min() > 0.1
    assert shares.max() < 0.2
    assert source.remarks == ("no folder of test images: 22 of 150 pictures become the test images",)
    assert source_of(folder).spec == source.spec


def test_a_class_may_have_the_name_train(folder: Path):
    (folder / "Coat").rename(folder / "train")
    (folder / "Dress").rename(folder / "test")
    assert source_of(folder).spec.classes == ("Pullover", "Sandal", "Shirt", "T-shirt top", "Trouser", "test", "train")


def test_pictures_of_another_size_are_resized_to_the_most_frequent_and_that_is_said(folder: Path):
    Image.open(one(folder)).resize((40, 20)).save(one(folder))
    source = source_of(folder)
    assert source.spec.shape == (32, 32, 3)
    assert "resized 1 of 150 pictures to 32x32 pixels" in source.remarks


def test_all_are_resized_to_the_side_that_is_asked_for(folder: Path):
    source = source_of(folder, 16)
    assert source.spec.shape == (16, 16, 3)
    assert "resized 150 of 150 pictures to 16x16 pixels" in source.remarks
    found = {tuple(picture.ravel()) for part in ("train", "test") for picture in source.read(part).pixels}  # type: ignore[arg-type]
    small = Image.open(one(folder)).resize((16, 16), Image.Resampling.BILINEAR)
    assert tuple(np.asarray(small).ravel()) in found


def test_grey_pictures_among_those_in_colour_are_converted_and_that_is_said(folder: Path):
    Image.open(one(folder)).convert("L").save(one(folder))
    source = source_of(folder)
    assert source.spec.shape == (32, 32, 3)
    assert "converted 1 grey of 150 pictures to colour" in source.remarks


def test_pictures_may_be_jpegs_palettes_and_have_alpha(folder: Path):
    first, second, third = pictures(folder)[:3]
    Image.open(first).save(first.with_suffix(".JPG"), "JPEG")
    Image.open(second).convert("P").save(second)
    Image.open(third).convert("RGBA").save(third)
    first.unlink()
    assert source_of(folder).spec.train_images == 128


def test_other_files_and_hidden_folders_are_left_alone(folder: Path):
    before = source_of(folder).spec
    (folder / "Coat" / "notes.txt").write_text("no picture")
    (folder / "Coat" / "._0000.png").write_bytes(b"of another system")
    (folder / "notes.txt").write_text("no class")
    (folder / ".ipynb_checkpoints").mkdir()
    assert source_of(folder).spec == before


def test_pictures_in_folders_of_a_class_belong_to_it(folder: Path):
    deeper = folder / "Coat" / "more"
    deeper.mkdir()
    path = next((folder / "Coat").glob("*.png"))
    path.rename(deeper / path.name)
    spec = source_of(folder).spec
    assert (spec.train_images + spec.test_images, len(spec.classes)) == (150, 7)


def test_a_corrupt_picture_is_named(folder: Path):
    path = one(folder)
    path.write_bytes(path.read_bytes()[:300])
    message = refusal(lambda: source_of(folder).spec)
    assert message.startswith(f"{path} cannot be read as a picture (")
    assert message.endswith("Replace it, or move it away.")

    path.write_bytes(b"no picture")
    assert refusal(lambda: source_of(folder).spec).startswith(f"{path} cannot be read as a picture (cannot identify")


def test_a_picture_of_16_bits_is_refused(folder: Path):
    Image.fromarray(np.full((32, 32), 1_000, np.uint16)).save(one(folder))
    assert (
        refusal(lambda: source_of(folder).spec) == f"{one(folder)}: more than 8 bits per channel. Convert it to 8 bits."
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_would_fill_the_memory_is_refused(folder: Path):
    Image.new("1", (10_000, 10_000)).save(one(folder))
    message = refusal(lambda: source_of(folder).spec)
    assert message.startswith(f"{one(folder)} cannot be read as a picture (Image size (100000000 pixels) exceeds limit")


def test_pictures_that_are_mostly_too_large_are_refused_with_the_option_that_helps(folder: Path):
    for path in pictures(folder):
        Image.open(path).resize((300, 200)).save(path)
    message = refusal(lambda: source_of(folder).spec)
    assert message == (
        f"{folder}: most pictures are 300x200. Images must have 8 to 256 pixels per side. Resize them, for "
        "example with --image-size 64."
    )
    assert source_of(folder, 32).spec.shape == (32, 32, 3)


def test_pictures_that_do_not_fit_into_memory_are_refused_with_the_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr("sweeper.data.own.free_memory", lambda: 1_000_000)
    message = refusal(lambda: source_of(folder, 256).spec)
    assert f"{folder}: the images need 0.1 GB of memory, and only 0.0 GB are free." in message


def test_an_empty_class_is_named(folder: Path):
    (folder / "Hat").mkdir()
    assert "class 'Hat' (label 2) has no training image" in refusal(lambda: source_of(folder).spec)


def test_a_class_that_only_the_test_part_has_is_named(parts: Path):
    (parts / "train" / "Coat").rename(parts / "Coat")
    message = refusal(lambda: source_of(parts).spec)
    assert message == f"{parts}/Coat: {parts} may only hold train and test. Move it away, or rename it to test."
    (parts / "Coat").rename(parts.parent / "Coat")
    message = refusal(lambda: source_of(parts).spec)
    assert message == f"{parts}/test/Coat: this class has no folder in train. Both must have the same classes."


def test_a_class_may_have_no_test_pictures(parts: Path):
    for path in (parts / "test" / "Coat").iterdir():
        path.unlink()
    assert len(source_of(parts).spec.classes) == 7


def test_a_test_part_alone_and_an_empty_one_are_refused(parts: Path):
    (parts / "train").rename(parts.parent / "train")
    assert f"{parts}/train: no such folder next to test" in refusal(lambda: source_of(parts).spec)
    (parts / "test").rename(parts / "train")
    (parts / "test").mkdir()
    assert "no test image" in refusal(lambda: source_of(parts).spec)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path):
    says = {"nowhere": "No such file or directory", "file": "Not a directory", "circle": "symbolic link"}
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for name, reason in says.items():
        message = refusal(lambda name=name: source_of(tmp_path / name).spec)  # type: ignore[misc]
        assert message.startswith(f"{tmp_path / name} cannot be read (")
        assert reason in message
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty holds no pictures" in refusal(lambda: source_of(tmp_path / "empty").spec)


def test_the_two_parts_need_not_be_of_one_size(parts: Path):
    for path in pictures(parts / "test"):
        Image.open(path).resize((30, 30)).save(path)
    source = source_of(parts)
    assert source.spec.shape == (28, 28, 1)
    assert source.remarks == ("resized 50 of 150 pictures to 28x28 pixels",)


def test_the_hash_is_that_of_the_pixels_not_of_the_files(tmp_path: Path):
    found = cut(100)
    first = write_pictures(tmp_path / "first", coloured(found.pixels), found.labels)
    spec = source_of(first).spec
    for path in pictures(first):
        Image.open(path).save(path, compress_level=0)
    assert source_of(first).spec.sha256 == spec.sha256
    moved = first.rename(tmp_path / "second")
    assert source_of(moved).spec.sha256 == spec.sha256
