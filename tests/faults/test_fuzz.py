"""Whatever is in a file or a parameter: one of our own one-line errors or the right value, soon, in little memory."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.core.config import MAX_EPOCHS, MODELS, Placement, RunConfig
from sweeper.core.errors import ConfigError, DataError, SpaceError, SweeperError
from sweeper.core.experiments import EXPERIMENTS, experiment
from sweeper.data.fashion import IdxFile, read_idx
from sweeper.study.space import SEARCHABLE, Space
from sweeper.study.space_file import MAX_FILE_BYTES, read_space
from tests.faults.tools.tally import note

TIERS = [pytest.param(50, id="quick"), pytest.param(2_000, id="long", marks=pytest.mark.slow)]
PATIENCE = 300  # seconds, for what takes less than twenty
PROCESSOR_SECONDS = 2
MEMORY_MIB = 500
fuzzed = pytest.mark.parametrize("examples", TIERS)


def fuzz(examples: int, *strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Check a property on `examples` examples."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    limits = settings(max_examples=examples, deadline=None, suppress_health_check=checks, print_blob=True)

    def check(holds: Callable[..., None]) -> None:
        limits(given(*strategies)(holds))()
        note({"examples": examples})

    return check


def attempt(kind: type[SweeperError], call: Callable[[], Any]) -> Any:
    """What `call` returns, or None where it raises an error of that kind; any other is the test's failure."""
    try:
        return call()
    except kind as error:
        (_,) = str(error).splitlines()
        return None


# --- configurations ------------------------------------------------------------------------------------

junk = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
rates = st.floats(0, 1, exclude_max=True)
right: dict[str, st.SearchStrategy[Any]] = {
    "experiment": st.sampled_from([0, *EXPERIMENTS]),
    "model": st.sampled_from([*MODELS, "net.py:build", "nets.wide:build"]),
    "model_args": st.dictionaries(st.text(max_size=3), st.booleans() | st.integers() | st.text(max_size=3), max_size=2),
    "model_sha256": st.sampled_from(["", "5" * 64]),
    "placement": st.sampled_from(Placement),
    "conv_dropout": rates,
    "head_dropout": rates,
    "augmentation": st.sampled_from(["none", "crop-flip", "crop-flip-erase"]),
    "epochs": st.integers(1, MAX_EPOCHS),
    "dropout_schedule": st.sampled_from(["constant", "early", "late"]),
    "dropout_switch": st.integers(0, 20),
    "batch_size": st.integers(1, 60_000),
    "train_images": st.sampled_from([0, 60_000]),
    "lr": st.floats(0, exclude_min=True, allow_infinity=False),
    "weight_decay": st.floats(0, allow_infinity=False),
    "schedule": st.sampled_from(["constant", "cosine", "onecycle"]),
    "seed": st.integers(0, 2**31 - 1),
    "dataset": st.sampled_from(["fashion-mnist", "sample"]),
    "dataset_sha256": st.sampled_from(["", "7" * 64]),
    "image_size": st.integers(0, 256),
    "split": st.sampled_from(["test", "holdout", "folds"]),
    "folds": st.sampled_from([0, 2, 100]),
    "device": st.sampled_from(["cpu", "cuda", "cuda:7"]),
    "precision": st.sampled_from(["fp32", "bf16"]),
}
assert right.keys() == RunConfig.model_fields.keys()
mostly_right = st.fixed_dictionaries({}, optional={name: values | junk for name, values in right.items()})


@fuzzed
def test_fields_make_a_configuration_that_comes_back_exactly_or_a_one_line_error(examples: int):
    @fuzz(examples, st.fixed_dictionaries({}, optional=right) | mostly_right)
    def holds(fields: dict[str, Any]) -> None:
        config = attempt(ConfigError, lambda: RunConfig.create(**fields))
        if config is None:
            return
        assert RunConfig.from_params(config.to_params()) == config
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        assert RunConfig.create(**config.model_dump()) == config
        assert RunConfig.from_params(config.to_params()).key == config.key
        assert all(isinstance(value, str) for value in config.to_params().values())


@fuzzed
def test_parameters_make_a_configuration_or_a_one_line_error(examples: int):
    names = st.sampled_from(
        [*RunConfig.model_fields, "model.width", "config.model.width", "config.lr", "config.epochs", "else"]
    )
    words = st.sampled_from(["nan", "inf", "-0", "1_0", "\uff10", "1e3", " 1", "None", "cpu\n", "bn", "folds"])

    @fuzz(examples, st.dictionaries(names, words | st.text() | st.integers().map(str) | st.floats().map(str)))
    def holds(params: dict[str, str]) -> None:
        config = attempt(ConfigError, lambda: RunConfig.from_params(params))
        assert config is None or RunConfig.from_params(config.to_params()) == config


# --- search spaces -------------------------------------------------------------------------------------

BASE = experiment(6, split="holdout")
# Words that mean something to YAML, or to us.
fragments = st.sampled_from(
    [
        *SEARCHABLE, *(p.value for p in Placement), *"[]{},:-?|>&*!%@`'\"#\n\t\0\ufeff", "low: ", "high: ", "log: ",
        ": ", "true", ".nan", ".inf", "-.inf", "1e400", "1e-3", "1.0e-3", "0x10", "0o7", "1:30", "9" * 5_000, "~",
        "\n  ", "2020-01-01", "2020-99-99", "<<: ", "---\n", "...\n", "&a ", "*a",
        "!!python/object/apply:os.system [id]", "!!binary aGk=", "!!set ", "!!omap ", "!!int ", "!!float ", "!!bool ",
        "!!timestamp ", "! ", '""', "maybe", '"64"', "64",
    ]
)  # fmt: skip
numbers = st.integers() | st.floats() | st.integers(-2, 600)
dimension = st.one_of(
    st.lists(numbers | st.text(max_size=5) | st.sampled_from([p.value for p in Placement]), max_size=5),
    st.fixed_dictionaries({"low": numbers, "high": numbers}, optional={"log": st.booleans() | junk}),
    junk.filter(lambda value: not isinstance(value, bytes)),
)
ranges = st.tuples(st.floats(1e-6, 0.5), st.floats(0, 0.4)).map(lambda r: {"low": r[0], "high": r[0] + r[1]})
right_dimensions: dict[str, st.SearchStrategy[Any]] = {
    "placement": st.lists(st.sampled_from([p.value for p in Placement]), min_size=1, unique=True),
    **dict.fromkeys(["conv_dropout", "head_dropout", "lr", "weight_decay"], ranges),
    "batch_size": st.lists(st.integers(2, 60_000), min_size=1, max_size=5, unique=True),
    "model": st.lists(st.sampled_from(["small", "large"]), min_size=1, unique=True),
}
spaces = st.fixed_dictionaries({}, optional=right_dimensions) | st.dictionaries(
    st.sampled_from(SEARCHABLE) | st.text(max_size=5), dimension, max_size=5
)


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    return tmp_path / "space.yaml"


@fuzzed
@pytest.mark.parametrize(
    "texts", [st.binary(max_size=500), st.lists(fragments, max_size=60).map(lambda parts: "".join(parts).encode())],
    ids=["bytes", "words"],
)  # fmt: skip
def test_any_bytes_are_a_space_or_a_one_line_error(space_file: Path, examples: int, texts: Any):
    @fuzz(examples, texts)
    def holds(text: bytes) -> None:
        space_file.write_bytes(text)
        attempt(SpaceError, lambda: read_space(space_file).validate(BASE))


@fuzzed
def test_a_space_that_is_taken_suggests_what_can_be_trained(space_file: Path, examples: int):
    sampler = optuna.samplers.RandomSampler(0)
    taken = []

    @fuzz(examples, spaces)
    def holds(content: dict[str, Any]) -> None:
        space_file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        space: Space | None = attempt(SpaceError, lambda: read_space(space_file).validate(BASE))
        if space is None:
            return
        taken.append(space)
        config = space.suggest(BASE, optuna.create_study(sampler=sampler).ask())
        assert RunConfig.from_params(config.to_params()) == config
        space_file.write_text(yaml.safe_dump(space.describe()))
        assert read_space(space_file) == space

    assert taken  # else nothing was tested


COSTLY = {
    "many keys": "{" + ",".join(f"a{n:x}" for n in range(14_000)),
    "many values": "lr: [" + ",".join(str(n) for n in range(1, 12_000)) + "]",
    "many pairs": "batch_size: [" + ",".join(str(n) for n in range(2, 11_000)) + "]\nplacement: [none, bn]",
    "sequences": "- " * 30_000,
    "keys of keys": "? " * 30_000,
    "brackets": "[" * 60_000,
    "tags": "!" * 60_000,
    "a long number": "a: " + "9" * 60_000,
    "a long time": "a: 1" + ":59" * 20_000,
    "above all floats": "lr: {low: 1" + "0" * 400 + ", high: 2" + "0" * 400 + "}",
    "escapes": '"' + "\\U0001F600" * 6_000 + '": [1]',
}


def test_a_space_that_is_costly_to_read_is_answered_soon(tmp_path: Path):
    for name, text in COSTLY.items():
        (tmp_path / name).write_text(text[: MAX_FILE_BYTES - 2] + "}" * text.startswith("{"))
    limited(f"""
from sweeper.core.experiments import experiment
from sweeper.study.space_file import read_space
for name in {list(COSTLY)!r}:
    limit_processor_seconds()
    attempt(lambda: read_space(Path({str(tmp_path)!r}) / name).validate(experiment(6, split="holdout")))
""")


LIMITED = """
import resource, signal
from pathlib import Path
import sweeper.training.images, sweeper.study.space
from sweeper.core.errors import DataError, SpaceError

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {memory}, used + {memory}))

def limit_processor_seconds():
    signal.setitimer(signal.ITIMER_VIRTUAL, {seconds})

def attempt(call):
    try:
        return call()
    except (DataError, SpaceError) as error:
        assert len(str(error).splitlines()) == 1
"""


def limited(code: str) -> None:
    """Run `code` in a process that may allocate `MEMORY_MIB` more than its imports have.

    `limit_processor_seconds()` ends it by a signal where what follows takes too long; the load of the machine does not.
    """
    setup = LIMITED.format(memory=MEMORY_MIB * 2**20, seconds=PROCESSOR_SECONDS)
    done = subprocess.run(
        [sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


# --- idx files -----------------------------------------------------------------------------------------

SHAPE = (5, 28, 28)
VALUES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
CONTENT = struct.pack(">HBB3I", 0, 8, 3, *SHAPE) + VALUES.tobytes()
FILE = IdxFile("images", SHAPE, hashlib.sha256(CONTENT).hexdigest())
PACKED = gzip.compress(CONTENT, mtime=0)


def flip(content: bytes, bits: list[int]) -> bytes:
    changed = bytearray(content)
    for bit in bits:
        changed[bit // 8 % len(content)] ^= 1 << bit % 8
    return bytes(changed)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Ways in which a file is not what it was."""
    return st.one_of(
        st.lists(st.integers(0, 8 * len(content) - 1), max_size=3).map(lambda bits: flip(content, bits)),
        st.lists(st.integers(0, 160), max_size=8).map(lambda bits: flip(content, bits)),  # in the header
        st.integers(0, len(content)).map(lambda end: content[:end]),
        st.binary(max_size=50).map(lambda more: content + more),
        st.binary(min_size=1, max_size=40).map(lambda head: head + content[len(head) :]),
        st.tuples(*[st.integers(0, 2**32 - 1)] * 3).map(lambda n: content[:4] + struct.pack(">3I", *n) + content[16:]),
        st.tuples(*[st.integers(0, len(content))] * 2).map(lambda cut: content[: cut[0]] + content[cut[1] :]),
        st.binary(max_size=300),
        st.just(content),
    )  # fmt: skip


@fuzzed
@pytest.mark.parametrize(("suffix", "content"), [("", CONTENT), (".gz", PACKED)], ids=["raw", "gzip"])
def test_any_bytes_are_the_images_themselves_or_a_one_line_error(
    tmp_path: Path, examples: int, suffix: str, content: bytes
):
    @fuzz(examples, damaged(content))
    def holds(bytes_: bytes) -> None:
        (tmp_path / f"images{suffix}").write_bytes(bytes_)
        images = attempt(DataError, lambda: read_idx(tmp_path, FILE))
        if suffix == "":
            assert (images is not None) == (bytes_ == CONTENT)
        if images is not None:
            assert (images == VALUES).all()


ZEROS = gzip.compress(bytes(2**24), 1)
BOMBS: dict[str, Callable[[], bytes]] = {
    "4 GB of zeros": lambda: gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 60_000, 28, 28)) + ZEROS * 256,
    "2^96 images": lambda: gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)) + ZEROS * 256,
    "255 dimensions": lambda: gzip.compress(b"\0\0\x08\xff" + b"\xff" * 1_020) + ZEROS,
    "a name without an end": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 2**26,
    "a comment without an end": lambda: b"\x1f\x8b\x08\x10" + bytes(6) + b"x" * 2**26,
    "a million empty members": lambda: gzip.compress(b"", mtime=0) * 1_000_000,
    "gzip of gzip": lambda: gzip.compress(ZEROS * 1_000),
}


@pytest.mark.parametrize("bomb", ["4 GB of zeros", *(pytest.param(b, marks=pytest.mark.slow) for b in list(BOMBS)[1:])])
def test_a_bomb_is_a_one_line_error_in_little_memory(tmp_path: Path, bomb: str):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(BOMBS[bomb]())
    limited(f"""
from sweeper.data.fashion import FULL, read_idx
limit_processor_seconds()
assert attempt(lambda: read_idx(Path({str(tmp_path)!r}), FULL.train[0])) is None
""")
