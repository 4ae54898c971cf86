"""Bad input of every kind: the exit code, one line on stderr, no traceback, and nothing created."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.core.environment import EXPERIMENT
from sweeper.core.experiments import EXPERIMENT_TITLES
from sweeper.data.fashion import FULL, SYSTEM_DIR
from tests.faults.tools.tally import note
from tests.faults.tools.tmpfs import mounted
from tests.process.conftest import Answer, listing
from tests.support.bad_input_row import Row
from tests.support.bad_input_table import CANARY, EIGHT, ROWS

pytest_plugins = ["tests.support.mlflow_store", "tests.support.postgres"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

PATIENCE = 60  # seconds; what takes that long hangs
BOMB_BYTES = 2**30
TRAIN_IMAGES = FULL.train[0]
HEADER = struct.pack(">HBB3I", 0, 8, 3, *TRAIN_IMAGES.shape)


class Given:
    """An empty home, and beside it what a row needs to be there; `words` has what {NAME} in a command stands for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> None:
        self._request, self._folder, self._stack = request, folder, stack
        self.home = folder / "home"
        self.home.mkdir()
        self.env: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.stdout: int | str = subprocess.PIPE

    def space(self, text: str) -> None:
        """A search space."""
        path = self._folder / "space.yaml"
        path.write_text(text)
        self.words["space"] = str(path)

    def known(self, text: str) -> None:
        """Known configurations, under a name of either kind."""
        for kind in ("yaml", "csv"):
            (self._folder / f"known.{kind}").write_text(text)
            self.words[kind] = str(self._folder / f"known.{kind}")

    def file(self, _: str) -> None:
        """A file that is no database."""
        self.words["file"] = str(self._folder / "file")
        (self._folder / "file").write_bytes(b"no database" * 1_000)

    def journal(self, _: str) -> None:
        """A journal that holds nothing."""
        (self.home / "journal").mkdir()

    def no_home(self, _: str) -> None:
        """A home that is not there."""
        self.env["SWEEPER_HOME"] = "nowhere"

    def read_only(self, _: str) -> None:
        """A home that cannot be written, by root neither."""
        folder = self._stack.enter_context(mounted(self._folder / "read-only"))
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        self.env["SWEEPER_HOME"] = str(folder)

    def full_disk(self, _: str) -> None:
        """A home on a disk without a free block."""
        folder = self._stack.enter_context(mounted(self._folder / "full", "64k"))
        (folder / "ballast").write_bytes(bytes(64 * 1024))
        self.env["SWEEPER_HOME"] = str(folder)

    def full_stdout(self, _: str) -> None:
        """A stdout that takes nothing."""
        self.stdout = "/dev/full"

    def variable(self, text: str) -> None:
        """A variable of the environment, as NAME=VALUE."""
        name, _, value = text.partition("=")
        self.env[name] = value

    def log(self, _: str) -> None:
        """Nothing; the folder of logs may be made."""

    def backup(self, _: str) -> None:
        """A whole backup, of nothing."""
        manifest = self._folder / "manifest.json"
        manifest.write_text(json.dumps({"format": 1, "sha256": {}}))
        self.words["backup"] = str(self._folder / "backup.tar")
        with tarfile.open(self.words["backup"], "w") as tar:
            tar.add(manifest, manifest.name)

    # --- studies

    def study(self, space: str) -> None:
        """A study of experiment 1 on the sample, 2 epochs, that another process has made; and a search space."""
        from sweeper.core.experiments import experiment
        from sweeper.data.fashion import SAMPLE
        from sweeper.study.opening import open_study
        from sweeper.study.space import default_space
        from sweeper.study.study import StudySettings
        from sweeper.training.device import resolve_precision

        fields = {"epochs": 2, "split": "holdout", "dataset": "sample", "precision": resolve_precision("auto", "cpu")}
        settings = StudySettings(experiment(1, **fields), default_space(), SAMPLE.digest)
        open_study("sweep", settings, f"sqlite:///{self.home / 'sweeper.db'}").close()
        self.space(space)

    def study_and_full_data(self, _: str) -> None:
        """The study, and the data set that it is not of."""
        if not SYSTEM_DIR.is_dir():
            pytest.skip("FashionMNIST is not installed")
        self.study("")
        self.words["full"] = str(SYSTEM_DIR)

    def study_and_full_stdout(self, _: str) -> None:
        """The study, and a stdout that takes nothing."""
        self.study("")
        self.full_stdout("")

    # --- MLflow

    def deleted_experiment(self, _: str) -> None:
        """An MLflow store whose experiment was deleted, and a journal."""
        shutil.copy(self._request.getfixturevalue("empty_store"), self.home)
        with contextlib.closing(sqlite3.connect(self.home / "mlflow.db")) as database, database:
            database.execute("UPDATE experiments SET name = ?, lifecycle_stage = 'deleted'", [EXPERIMENT])
        self.journal("")

    def damaged_database(self, _: str) -> None:
        """A file that begins as a database of sqlite does, and holds something else."""
        self.words["file"] = str(self._folder / "file")
        (self._folder / "file").write_bytes(b"SQLite format 3\0" + b"\xff" * 5_000)

    def server(self, kind: str) -> None:
        """A tracking server that lets nobody in, one whose experiment was deleted, or what is none at all."""
        deleted = {"experiment": {"experiment_id": "0", "name": EXPERIMENT, "lifecycle_stage": "deleted"}}
        answers = {"401": (401, "Who are you?"), "deleted": (200, json.dumps(deleted)), "else": (200, "<p>Hello</p>")}
        status, body = answers[kind]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, text = (200, "OK") if self.path == "/health" else (status, body)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        server = self._stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        self._stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.words["server"] = f"127.0.0.1:{server.server_port}"

    def foreign_study(self, _: str) -> None:
        """A study that Optuna's own users have made."""
        import optuna

        storage = f"sqlite:///{self.home / 'sweeper.db'}"
        optuna.create_study(study_name="minimal", storage=storage, direction="minimize")

    # --- data

    def data(self, kind: str) -> None:
        """A folder, or not, from which FashionMNIST cannot be read."""
        folder = self._folder / "data"
        self.words["data"] = str(folder)
        if kind == "a file":
            folder.touch()
        elif kind != "missing":
            folder.mkdir()
            if kind != "empty":
                self._damage(folder, kind)

    def _damage(self, folder: Path, kind: str) -> None:
        for file in FULL.train + FULL.test:
            (folder / file.name).touch()
        images = folder / TRAIN_IMAGES.name
        content = HEADER + bytes(TRAIN_IMAGES.size - len(HEADER))
        packed = gzip.compress(content[:100_000], 1)
        raw = {
            "wrong magic": b"\0\0\x08\x01" + content[4:],
            "wrong count": struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31),
            "truncated": content[:-1],
            "other images": content,
        }
        zipped = {
            "gzip, truncated": packed[: len(packed) // 2],
            "gzip, bad CRC": packed[:-8] + bytes(4) + packed[-4:],
            "gzip in name only": content[:1_000],
            "gzip bomb": gzip.compress(HEADER) + gzip.compress(bytes(2**24), 1) * (BOMB_BYTES // 2**24),
        }
        if kind == "labels":
            self._damage_labels(folder)
        elif kind in raw:
            images.write_bytes(raw[kind])
        else:
            images.rename(folder / f"{images.name}.gz").write_bytes(zipped[kind])

    def _damage_labels(self, folder: Path) -> None:
        if not SYSTEM_DIR.is_dir():
            pytest.skip("FashionMNIST is not installed")
        (folder / TRAIN_IMAGES.name).unlink()
        (folder / f"{TRAIN_IMAGES.name}.gz").symlink_to(SYSTEM_DIR / f"{TRAIN_IMAGES.name}.gz")
        labels = FULL.train[1]
        (folder / labels.name).write_bytes(struct.pack(">HBBI", 0, 8, 1, *labels.shape) + b"\x0a" * labels.shape[0])

    # --- services

    def ray(self, _: str) -> None:
        """An installation of Ray."""
        pytest.importorskip("ray")

    def silent(self, _: str) -> None:
        """A server that takes connections and never answers."""
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.words["silent"] = f"127.0.0.1:{listener.getsockname()[1]}"

    def empty_database(self, _: str) -> None:
        """A database of sqlite without tables."""
        (self.home / "empty.db").touch()

    def empty_postgres(self, _: str) -> None:
        """A database of PostgreSQL without tables."""
        self.words["empty_postgres"] = self._request.getfixturevalue("new_database")()

    def postgres(self, _: str) -> None:
        """A PostgreSQL with a user who has another password than the one that is given."""
        server = self._request.getfixturevalue("postgres_server")
        rules = server.pgdata / "pg_hba.conf"
        if "canary" not in rules.read_text():
            server.psql("CREATE ROLE canary LOGIN PASSWORD 'right'")
            rules.write_text(f"local all canary scram-sha-256\n{rules.read_text()}")
            server.psql("SELECT pg_reload_conf()")
        uri = server.get_uri("postgres")
        assert uri.startswith("postgresql://postgres:@/")
        self.words["postgres"] = uri.replace("postgres:@", f"canary:{CANARY}@", 1)


@pytest.fixture
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Given]:
    """An empty home."""
    with ExitStack() as stack:
        yield Given(request, tmp_path, stack)


def in_its_own(given: Given, argv: list[str], alone: dict[str, str]) -> Answer:
    """Run a command in a process of its own; one that hangs is killed, and the test fails."""
    with ExitStack() as stack:
        out = stack.enter_context(Path(given.stdout).open("w")) if isinstance(given.stdout, str) else given.stdout
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", *argv], cwd=given.home, env=alone | given.env, stdout=out,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    return Answer(done.returncode, done.stdout or "", done.stderr)


def check(row: Row, given: Given, run: Callable[[list[str]], Answer]) -> None:
    if row.given:
        getattr(given, row.given)(row.kind)
    argv = [word.format_map(given.words) if "{" in word and row.given else word for word in row.argv]
    homes = [given.home, *(Path(home) for home in given.env.values() if Path(home).is_dir())]
    before = [listing(home, leaves_empty=row.leaves_empty) for home in homes]
    answer = run(argv)
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1
    assert answer.out == ""
    assert answer.code == row.code, answer.err
    assert [listing(home, leaves_empty=row.leaves_empty) for home in homes] == before
    says = [word.format_map(given.words) if row.given else word for word in row.says]
    assert [word for word in says if word not in answer.err] == [], answer.err
    assert CANARY not in answer.err


def rows(process: bool) -> list[Any]:
    """The rows to run in this process, or in processes of their own; the long form runs all in processes."""
    no_pipe = ("full_stdout", "study_and_full_stdout")
    chosen = ROWS if process else [row for row in ROWS if row.given not in no_pipe]
    slow = [row.slow or (process and not row.process) for row in chosen]
    return [
        pytest.param(row, id=row.id, marks=pytest.mark.slow if late else ())
        for row, late in zip(chosen, slow, strict=True)
        if not ("\0" in "".join(row.argv) and process)  # no process can be given one
    ]


@pytest.mark.parametrize("row", rows(process=False))
def test_bad_input_is_refused_in_one_line(row: Row, given: Given, sweeper: Callable[..., Answer]):
    check(row, given, lambda argv: sweeper(given.home, *argv, env=given.env))


@pytest.mark.parametrize("row", rows(process=True))
def test_bad_input_is_refused_by_a_process(row: Row, given: Given, alone: dict[str, str]):
    seconds = 0.0

    def run(argv: list[str]) -> Answer:
        nonlocal seconds
        began = time.monotonic()
        answer = in_its_own(given, argv, alone)
        seconds = time.monotonic() - began
        return answer

    check(row, given, run)
    note({"row": row.id, "code": row.code, "seconds": seconds})


def test_the_table_names_the_eight_experiments():
    assert tuple(EXPERIMENT_TITLES.values()) == EIGHT


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("command", ["train", "optimize"])
def test_cuda_is_refused_where_there_is_no_gpu(given: Given, sweeper: Callable[..., Answer], command: str):
    row = Row("missing GPU", (command, "--dataset", "sample", "--device", "cuda"), 2, ("device='cuda'",))
    check(row, given, lambda argv: sweeper(given.home, *argv))
