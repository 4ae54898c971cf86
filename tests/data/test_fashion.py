from __future__ import annotations

import gc
import gzip
import hashlib
import http.server
import os
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from docs.cut_sample import main
from sweeper.core.config import RunConfig
from sweeper.data import download, fashion
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR, SIDE, SYSTEM_DIR, FashionSource, find, locate
from sweeper.data.splits import load, load_test
from tests.support.little import SMALL, at, contents, declare, refusal, write

pytest_plugins = ["tests.support.little"]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither variable, cache nor system package holds the data set; the folder they would be in."""
    monkeypatch.delenv("SWEEPER_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(fashion, "SYSTEM_DIR", tmp_path / "system")
    return tmp_path


# --- the embedded sample -----------------------------------------------------------------------------


def test_the_sample_holds_6000_1000_and_1000_images_each_class_equally():
    (split,), test = load(RunConfig(dataset="sample"), find("sample")), load_test(find("sample"))
    for images, each in ((split.train, 600), (split.val, 100), (test.val, 100)):
        assert (images.pixels.shape, images.pixels.dtype) == ((10 * each, SIDE, SIDE, 1), np.uint8)
        assert (np.bincount(images.labels).tolist(), images.labels.dtype) == ([each] * 10, np.int64)


def test_the_sample_is_in_the_package_and_smaller_than_5_mb():
    assert find("sample") == FashionSource(SAMPLE, SAMPLE_DIR)
    assert sum(path.stat().st_size for path in SAMPLE_DIR.iterdir() if path.is_file()) < 5_000_000


@pytest.mark.skipif(not SYSTEM_DIR.is_dir(), reason=f"Debian's package dataset-fashion-mnist is not in {SYSTEM_DIR}")
def test_the_cut_script_reproduces_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(SYSTEM_DIR, tmp_path)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for file in SAMPLE.train + SAMPLE.test:
        shipped = gzip.decompress((SAMPLE_DIR / f"{file.name}.gz").read_bytes())
        assert gzip.decompress((tmp_path / f"{file.name}.gz").read_bytes()) == shipped
        assert printed[file.name] == file.sha256


# --- where the files are looked for ------------------------------------------------------------------


def test_locate_takes_the_named_folder_then_the_variable_then_the_cache_then_the_system(
    little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SWEEPER_DATA_DIR", "")  # which is no folder
    assert locate() is None
    system = write(little, nowhere / "system")
    assert locate() == system
    cache = write(little, fashion.cache_dir())
    assert cache.is_relative_to(nowhere / "user")
    assert locate() == cache
    variable = write(little, nowhere / "variable")
    monkeypatch.setenv("SWEEPER_DATA_DIR", str(variable))
    assert locate() == variable
    named = write(little, nowhere / "named")
    assert locate(named) == named


def test_torchvisions_root_is_taken_for_the_folder_below_it(little: dict[str, bytes], nowhere: Path):
    raw = write(little, nowhere / "root" / "FashionMNIST" / "raw")
    assert locate(nowhere / "root") == locate(nowhere / "root" / "FashionMNIST") == raw


def test_another_data_set_is_told_what_is_supported(nowhere: Path):
    other = write({"data_batch_1": b""}, nowhere / "cifar-10-batches-py")
    assert "use other images with --dataset" in refusal(locate, other)


@pytest.mark.parametrize("how", ["named", "variable"])
def test_a_folder_that_was_asked_for_must_hold_the_files(
    folder: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    asked = write({"t10k-labels-idx1-ubyte": b"", "train-labels-idx1-ubyte": b""}, nowhere / "asked")
    monkeypatch.setattr(fashion, "SYSTEM_DIR", folder)  # holds them, and was not asked for
    if how == "variable":
        monkeypatch.setenv("SWEEPER_DATA_DIR", str(asked))
    message = refusal(locate, *([asked] if how == "named" else []))
    assert "lacks train-images-idx3-ubyte, t10k-images-idx3-ubyte, raw or .gz" in message


@pytest.mark.parametrize("name", ["missing", "a file", "n" * 300], ids=["missing", "a file", "too long"])
@pytest.mark.parametrize("dataset", ["fashion-mnist", "auto"])
def test_a_named_folder_that_is_none_is_refused(nowhere: Path, name: str, dataset: str):
    (nowhere / "a file").touch()
    problem = " cannot be read" if len(name) > 255 else ": not a folder"
    assert f"{name}{problem}" in refusal(find, dataset, nowhere / name)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read what root's folders forbid."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_that_may_not_be_read_is_refused(folder: Path):
    folder.chmod(0)
    try:
        with unprivileged():
            message = refusal(locate, folder)
    finally:
        folder.chmod(0o700)
    assert str(folder) in message


@pytest.mark.parametrize("raw", [True, False, None], ids=["raw", "gz", "both kinds"])
def test_raw_and_gzipped_files_are_read_alike(little: dict[str, bytes], folder: Path, raw: bool | None):
    for name, content in little.items():
        if raw or (raw is None and "images" in name):
            (folder / f"{name}.gz").unlink()
            (folder / name).write_bytes(content)
    assert locate(folder) == folder
    test = load_test(at(folder)).val
    assert test.pixels.tobytes() == little["t10k-images-idx3-ubyte"][16:]
    assert test.labels.tolist() == [*range(10), *range(10)]


# --- damaged files -----------------------------------------------------------------------------------


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


# what was done to the decompressed file -> (the file as it is found, what the message must say)
GZ_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda raw: gzip.compress(raw)[:-100], "cannot be read"),
    "truncated in its header": (lambda raw: gzip.compress(raw)[:5], "cannot be read"),
    "bad CRC": (lambda raw: flipped(gzip.compress(raw), -8), "cannot be read"),
    "bad length": (lambda raw: flipped(gzip.compress(raw), -1), "cannot be read"),
    "bad stream": (lambda raw: gzip.compress(raw)[:20] + b"\xff" * 100, "cannot be read"),
    "not gzip": (lambda raw: raw, "cannot be read"),
    "something behind it": (lambda raw: gzip.compress(raw) + b"\0", "trailing data"),
    "an empty stream behind it": (lambda raw: gzip.compress(raw) + gzip.compress(b""), "trailing data"),
    "empty": (lambda raw: b"", "cannot be read"),
}
RAW_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong magic": (lambda raw: b"\x00\x00\x09" + raw[3:], "header"),
    "wrong count": (lambda raw: raw[:4] + struct.pack(">I", 39) + raw[8:], "header"),
    "an image too few": (lambda raw: raw[: -(SIDE**2)], "30592 decompressed bytes"),
    "a byte too few": (lambda raw: raw[:-1], "31375 decompressed bytes"),
    "a byte too many": (lambda raw: raw + b"\x00", "more decompressed bytes"),
    "flipped byte": (lambda raw: flipped(raw, 1_000), "SHA-256"),
    "no bytes": (lambda raw: b"", "header"),
}
TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("suffix", "damage", "said"),
    [
        *[pytest.param(".gz", *case, id=f"gz-{name}") for name, case in GZ_DAMAGE.items()],
        *[
            pytest.param(".gz", lambda raw, f=make: gzip.compress(f(raw)), said, id=f"gz-{name}")
            for name, (make, said) in RAW_DAMAGE.items()
        ],
        *[pytest.param("", *case, id=f"raw-{name}") for name, case in RAW_DAMAGE.items()],
    ],
)
def test_a_damaged_file_is_refused(
    little: dict[str, bytes], folder: Path, suffix: str, damage: Callable[[bytes], bytes], said: str
):
    (folder / f"{TRAIN_IMAGES}.gz").unlink()
    path = folder / f"{TRAIN_IMAGES}{suffix}"
    path.write_bytes(damage(little[TRAIN_IMAGES]))
    message = refusal(load, SMALL, at(folder))
    assert str(path) in message
    assert said in message


def test_a_gzip_bomb_is_not_decompressed(little: dict[str, bytes], folder: Path):
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(little[TRAIN_IMAGES] + bytes(64_000_000), 1))
    tracemalloc.start()
    try:
        message = refusal(load, SMALL, at(folder))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "more decompressed bytes" in message
    assert peak < 1_000_000


def test_a_label_out_of_range_is_refused_though_its_sum_is_right(
    little: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "train-labels-idx1-ubyte"
    little[name] = little[name][:-1] + b"\x0a"
    declare(little, monkeypatch)
    message = refusal(load, SMALL, at(write(little, tmp_path / "labels")))
    assert f"{name}: label 10. The labels must be 0 to 9" in message


def test_a_missing_file_is_refused(folder: Path):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert "train-labels-idx1-ubyte: no such file, raw or .gz" in refusal(load, SMALL, at(folder))


# --- download ----------------------------------------------------------------------------------------

WAYS = ("--data-dir", "dataset-fashion-mnist", "--dataset sample")  # out of a data set that cannot be had


def whole(content: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


FAILURES: dict[str, Callable[[bytes], bytes]] = {  # responses to a request for a file of this content
    "cut": lambda content: whole(content)[:-100],
    "missing": lambda content: b"HTTP/1.0 404 Not Found\r\n\r\n",
    "a page": lambda content: whole(gzip.compress(b"<p>Please log in</p>")),
    "no HTTP": lambda content: b"SSH-2.0-OpenSSH\r\n",
}


@dataclass
class Mirror:
    """A server on loopback that torchvision downloads `files` from."""

    files: dict[str, bytes]
    respond: Callable[[bytes], bytes] = whole
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Has the files of the little data set, and is torchvision's only mirror."""
    made = Mirror(little)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            made.asked.append(name)
            self.wfile.write(made.respond(gzip.compress(made.files[name.removesuffix(".gz")], mtime=0)))

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        known(little, f"http://127.0.0.1:{server.server_port}/", monkeypatch)
        yield made
        server.shutdown()
        thread.join()


def known(files: dict[str, bytes], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision where the files are, and their MD5."""
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    monkeypatch.setattr(FashionMNIST, "mirrors", [url])
    monkeypatch.setattr(FashionMNIST, "resources", [(n, hashlib.md5(c).hexdigest()) for n, c in packed.items()])


def is_empty(folder: Path) -> bool:
    return list(folder.glob("**/*.*")) == []


def test_a_download_is_verified_and_kept_decompressed(mirror: Mirror, nowhere: Path):
    cache = fashion.cache_dir()
    assert find("fashion-mnist") == FashionSource(fashion.FULL, cache)
    assert set(mirror.asked) == {f"{name}.gz" for name in mirror.files}
    mirror.asked.clear()
    assert find("auto") == FashionSource(fashion.FULL, cache)
    assert mirror.asked == []
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == mirror.files
    assert list(cache.parent.iterdir()) == [cache]
    assert len(load_test(at(cache)).val) == 20
    assert socket.getdefaulttimeout() is None


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # urllib leaves them open
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_download_is_one_line_that_says_what_to_do_and_auto_takes_the_sample(
    mirror: Mirror, nowhere: Path, failure: str
):
    mirror.respond = FAILURES[failure]
    message = refusal(find, "fashion-mnist")
    assert all(way in message for way in WAYS)
    assert find("auto") == FashionSource(SAMPLE, SAMPLE_DIR)
    gc.collect()  # sockets
    assert is_empty(nowhere / "user")


def test_other_images_than_those_of_fashion_mnist_are_not_kept(
    mirror: Mirror, nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    mirror.files = dict(zip(mirror.files, contents(40, 3) + contents(20, 4), strict=True))
    known(mirror.files, FashionMNIST.mirrors[0], monkeypatch)
    assert "its SHA-256 is wrong" in refusal(find, "fashion-mnist")
    assert find("auto") == FashionSource(SAMPLE, SAMPLE_DIR)
    assert is_empty(nowhere / "user")


def test_a_server_that_never_answers_is_not_waited_for_long(
    little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "SILENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        known(little, f"http://127.0.0.1:{silent.getsockname()[1]}/", monkeypatch)
        message = refusal(find, "fashion-mnist")
    assert "timed out" in message
    assert all(way in message for way in WAYS)
    assert socket.getdefaulttimeout() is None
    assert is_empty(nowhere / "user")


@pytest.mark.parametrize("writable", [True, False])
def test_without_a_network_or_a_place_to_write_fashion_mnist_is_refused_and_auto_takes_the_sample(
    little: dict[str, bytes], nowhere: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
):
    if not writable:
        (nowhere / "user").touch()  # a file where the cache's folder would be
    known(little, "http://127.0.0.1:1/", monkeypatch)
    message = refusal(find, "fashion-mnist")
    assert ("refused" if writable else "user") in message
    assert all(way in message for way in WAYS)
    assert find("auto") == FashionSource(SAMPLE, SAMPLE_DIR)
