from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.dataset import NAMED, check_dataset
from sweeper.core.errors import ConfigError

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, name) for name in NAMED),
        ("folder:own/../flowers", "folder:{here}/flowers"),
        ("folder:/own:of/mine", "folder:/own:of/mine"),
        ("folder:~/flowers", "folder:{home}/flowers"),
        ("own.npz", "{here}/own.npz"),
        ("own.py:images", "{here}/own.py:images"),
        ("own.package:images", "own.package:images"),
    ],
)
def test_a_name_is_kept_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    expected = expected.format(here=tmp_path, home=Path.home())
    assert check_dataset(name) == expected
    assert check_dataset(expected) == expected
    assert RunConfig.create(dataset=name).dataset == expected


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar", "Did you mean 'cifar10'?"),
        ("fashionmnist", "Did you mean 'fashion-mnist'?"),
        ("MNIST", ""),
        ("", ""),
        ("folder:", ""),
        (".npz", ""),
        ("own.py", ""),
        ("own.py:", ""),
        ("own.py:2", ""),
        ("flowers/", ""),
        ("auto", ""),
    ],
)
def test_another_name_is_refused_with_those_that_there_are(name: str, says: str):
    with pytest.raises(ConfigError) as caught:
        RunConfig.create(dataset=name)
    message = str(caught.value)
    assert message.startswith(
        f"dataset={name!r}: no such data set.{' ' * bool(says)}{says} Use fashion-mnist, sample, "
    )
    assert message.endswith("folder:DIR, FILE.npz, package.module:function or file.py:function.")


def test_images_of_ones_own_are_known_by_their_hash_wherever_they_lie():
    def key(**fields: object) -> str:
        return RunConfig.create(**fields).key

    here = key(dataset="folder:/here", dataset_sha256=SHA)
    assert key(dataset="folder:/there", dataset_sha256=SHA, image_size=32) == here
    assert key(dataset="/own.npz", dataset_sha256=SHA) == here
    assert key(dataset="folder:/here", dataset_sha256="cd" * 32) != here


def test_fashion_mnist_has_no_hash_in_a_configuration():
    assert RunConfig.create(dataset_sha256=SHA) == RunConfig()
    assert RunConfig.create(dataset="sample", dataset_sha256=SHA).key == RunConfig(dataset="sample").key
    assert "dataset_sha256" not in RunConfig.create(dataset_sha256=SHA).to_params()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image_size": 32}, "image_size=32: only pictures of folder:DIR can be resized; leave it out"),
        ({"image_size": 32, "dataset": "/own.npz"}, "only pictures of folder:DIR can be resized"),
        ({"image_size": 7, "dataset": "folder:/own"}, "image_size=7: use 8 to 256 pixels"),
        ({"image_size": 257, "dataset": "folder:/own"}, "image_size='257': should be less than or equal to 256"),
    ],
)
def test_a_size_that_cannot_be_is_refused(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        RunConfig.create(**fields)


def test_parameters_bring_the_configuration_back():
    config = RunConfig.create(dataset="folder:/own", dataset_sha256=SHA, image_size=32)
    assert RunConfig.from_params(config.to_params()) == config
