"""Journals and studies that somebody else made: nothing outside is read, written or deleted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest

from sweeper.cli.main import main
from sweeper.core.errors import SweeperError
from sweeper.tracking.fetching import KEY_TAG
from sweeper.tracking.journal import JournalTracker
from tests.support.tracked import EPOCHS, Home, info, write

pytest_plugins = ["tests.support.mlflow_store"]

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
CANARY = b"canary-5d1c"
BELL = "\x1b]0;owned\x07"


class Planted(NamedTuple):
    """A home with a run to spoil and a good one, and a folder outside of it that nothing may touch."""

    home: Path
    outside: Path

    @property
    def bad(self) -> Path:
        return self.home / "journal" / "demo" / "bad"

    @property
    def events(self) -> Path:
        return self.bad / "events.jsonl"

    def link(self, name: str, target: str) -> None:
        """Put a link to something outside in the place of a file or folder of the bad run."""
        place = self.bad / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(self.outside / target)

    def pipe(self, name: str) -> None:
        (self.bad / name).unlink(missing_ok=True)
        os.mkfifo(self.bad / name)

    def event(self, number: int, **fields: Any) -> None:
        """Change fields of an event, or add an event behind the last."""
        lines = [json.loads(line) for line in self.events.read_text().splitlines()]
        lines.append({}) if number == len(lines) else None
        lines[number] |= fields
        self.events.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def state(self, **fields: Any) -> None:
        known = {"store": f"sqlite:///{self.home}/mlflow.db", "run_id": None, "events": 0}
        (self.bad / "upload.json").write_text(json.dumps(known | fields))

    def move_out(self, folder: Path) -> None:
        """Move a folder outside and leave a link."""
        shutil.move(folder, self.outside / "moved")
        folder.symlink_to(self.outside / "moved")

    def contents(self) -> dict[str, bytes]:
        """All that is outside."""
        found = sorted(self.outside.rglob("*"))
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}


def truncated(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as stream:
        stream.truncate(size)


def unfinished(it: Planted) -> None:
    it.events.write_text("\n".join(it.events.read_text().splitlines()[:-1]) + "\n")
    it.link(".writer", "secret.txt")


def without_start(it: Planted) -> None:
    it.events.write_text("\n".join(it.events.read_text().splitlines()[1:]) + "\n")


def started_twice(it: Planted) -> None:
    first = it.events.read_text().splitlines()[0]
    it.events.write_text(it.events.read_text() + first.replace('"key": "bad"', '"key": "good"') + "\n")


def deep(it: Planted) -> None:
    it.events.write_bytes(
        it.events.read_bytes() + b'{"event": "epoch", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    )


def appended(line: bytes) -> Callable[[Planted], Any]:
    return lambda it: it.events.write_bytes(it.events.read_bytes() + line + b"\n")


def folder_of_events(it: Planted) -> None:
    it.events.unlink()
    it.events.mkdir()


def buried(it: Planted) -> None:
    """Write the journal of a run below 300 folders."""
    shutil.rmtree(it.bad)
    it.bad.mkdir()
    here = os.open(it.bad, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


JOURNALS: dict[str, Callable[[Planted], Any]] = {
    "the folder of files is a link": lambda it: it.link("artifacts", "folder"),
    "the folder of files is a link to nothing": lambda it: it.link("artifacts", "nothing"),
    "a folder among the files is a link": lambda it: it.link("artifacts/model", "folder"),
    "the folder of curves is a link": lambda it: it.link("artifacts/curves", "folder"),
    "a file is a link": lambda it: it.link("artifacts/stolen.txt", "secret.txt"),
    "the picture to draw is a link": lambda it: it.link("artifacts/curves/loss_accuracy.png", "secret.txt"),
    "what a picture is drawn from is a link": lambda it: it.link("artifacts/diagnostics/xray.json", "xray.json"),
    "a kept folder is a link": lambda it: it.link("artifacts/evaluation", "folder"),
    "the events are a link": lambda it: it.link("events.jsonl", "events.jsonl"),
    "the note of the upload is a link": lambda it: it.link("upload.json", "upload.json"),
    "the lock of the upload is a link": lambda it: it.link(".uploader", "secret.txt"),
    "the lock of the writer is a link": unfinished,
    "the folder of the run is a link": lambda it: it.move_out(it.bad),
    "the events are a pipe": lambda it: it.pipe("events.jsonl"),
    "the events are a folder": folder_of_events,
    "a file is a pipe": lambda it: it.pipe("artifacts/pipe"),
    "the note of the upload is a pipe": lambda it: it.pipe("upload.json"),
    "an empty object": appended(b"{}"),
    "no object": appended(b"[1]"),
    "no JSON": appended(b"\xff\xfe"),
    "JSON of 100,000 levels": deep,
    "a step that is text": lambda it: it.event(1, step="1"),
    "metrics that are a list": lambda it: it.event(1, metrics=[1.0]),
    "a metric that is not a number": lambda it: it.event(1, metrics={"val/loss": float("nan")}),
    "parameters that are numbers": lambda it: it.event(0, params={"lr": 0.1}),
    "a time that is text": lambda it: it.event(2, time="now"),
    "an end that runs": lambda it: it.event(-1, status="RUNNING"),
    "no start": without_start,
    "two keys": started_twice,
    "a key that is a query": lambda it: it.event(0, key="' OR name != '"),
    "a tag with control characters": lambda it: it.event(0, tags={f"a{BELL}": "b"}),
    "a run of another folder": lambda it: it.event(0, run_id="../../other"),
    "a line of 5 MB": appended(b'{"event": "epoch", "x": "' + b"x" * 5_000_000 + b'"}'),
    "events of 8 GB": lambda it: truncated(it.events, 2**33),
    "a file of 64 GB": lambda it: truncated(it.bad / "artifacts/model/big", 2**36),
    "a torn note of the upload": lambda it: (it.bad / "upload.json").write_text('{"store": "sqli'),
    "a note of the upload that is a list": lambda it: (it.bad / "upload.json").write_text("[]"),
    "a count of uploads that is text": lambda it: it.state(events="3"),
    "a count of uploads beyond the events": lambda it: it.state(events=1000),
    "a note of the upload of 8 GB": lambda it: truncated(it.bad / "upload.json", 2**33),
    "300 folders in each other": buried,
}  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of two finished runs."""
    root = tmp_path_factory.mktemp("packed")
    for key in ("bad", "good"):
        write(JournalTracker(root).start(info(key)))
    return root


@pytest.fixture
def planted(packed: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    it = Planted(tmp_path / "home", tmp_path / "outside")
    it.home.mkdir()
    shutil.copy(empty_store, it.home)
    shutil.copytree(packed, it.home / "journal")
    (it.outside / "folder").mkdir(parents=True)
    (it.outside / "secret.txt").write_bytes(CANARY)
    (it.outside / "folder" / "secret.txt").write_bytes(CANARY)
    (it.outside / "xray.json").write_text(json.dumps({"layers": [], "canary": CANARY.decode()}))
    it.state(run_id=CANARY.decode())
    shutil.move(it.bad / "upload.json", it.outside)
    shutil.copy(it.events, it.outside)
    monkeypatch.setenv("SWEEPER_HOME", str(it.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return it


class Said(NamedTuple):
    code: int
    out: str
    err: list[str]


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["sweeper", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert "--debug" not in err, err  # as of an error that nobody foresaw
        assert not [c for c in out + err if ord(c) < 32 and c != "\n"]
        return Said(int(left.value.code or 0), out, err.splitlines())

    return run


def stored(home: Path) -> bytes:
    """All that MLflow has, and all of its files."""
    return b"".join(
        path.read_bytes() for path in [home / "mlflow.db", *home.glob("mlartifacts/**/*")] if path.is_file()
    )


@pytest.mark.parametrize("spoil", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_bad_run_is_named_and_the_others_are_uploaded(
    planted: Planted, sweeper: Callable[..., Said], spoil: Callable[[Planted], Any]
) -> None:
    spoil(planted)
    before = planted.contents()
    for _ in range(2):
        said = sweeper("sync")
        assert said.code == 1, said
        named = [line for line in said.err if "demo/bad" in line]
        assert len(named) == 1, said
        assert said.err[-1].startswith("error: "), said
        assert len(said.err) == 2, said
    assert planted.contents() == before
    assert CANARY not in stored(planted.home)
    home = Home(planted.home, f"sqlite:///{planted.home}/mlflow.db", [])
    assert home.steps().get("good") == list(EPOCHS)
    (good,) = home.client().search_runs(["1"], f"tags.`{KEY_TAG}` = 'good'")
    assert good.info.status == "FINISHED"


def test_a_study_whose_folder_is_a_link_is_named(planted: Planted, sweeper: Callable[..., Said]) -> None:
    planted.move_out(planted.bad.parent)
    before = planted.contents()
    said = sweeper("sync")
    assert said.code == 1
    assert sum("journal/demo" in line for line in said.err) == 1
    with pytest.raises(SweeperError, match="is a link"):
        JournalTracker(planted.home / "journal").start(info("new"))
    assert planted.contents() == before


@pytest.mark.parametrize("name", ["events.jsonl", ".writer", "artifacts", "."])
def test_a_run_with_a_link_is_not_continued(planted: Planted, name: str) -> None:
    if name == ".":
        planted.move_out(planted.bad)
    else:
        planted.link(name, {"artifacts": "folder", "events.jsonl": "events.jsonl"}.get(name, "secret.txt"))
    before = planted.contents()
    with pytest.raises(SweeperError, match=r"bad.*is a link"):
        write(JournalTracker(planted.home / "journal").start(info("bad")))
    assert planted.contents() == before


@pytest.mark.parametrize("spoil", ["the events are a link", "the folder of the run is a link", "the events are a pipe",
                                   "an empty object", "JSON of 100,000 levels", "events of 8 GB"])  # fmt: skip
def test_a_bad_run_is_not_replayed(planted: Planted, sweeper: Callable[..., Said], spoil: str) -> None:
    JOURNALS[spoil](planted)
    for named in ("demo/bad", str(planted.bad)):
        said = sweeper("replay", named)
        assert (said.code, len(said.err)) == (1, 1), said
        assert "demo/bad" in said.err[0]


def test_a_run_of_threads_that_are_no_number_is_not_replayed(planted: Planted, sweeper: Callable[..., Said]) -> None:
    planted.event(0, tags={"sweeper.threads": f"many{BELL}"}, params={"dataset": "sample"})
    said = sweeper("replay", "demo/bad")
    assert (said.code, len(said.err)) == (2, 1), said
    assert "sweeper.threads" in said.err[0]


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", f"evil{BELL}", "runs"])
def test_a_name_that_is_read_is_checked_like_one_that_is_typed(
    planted: Planted, sweeper: Callable[..., Said], name: str
) -> None:
    storage = f"sqlite:///{planted.home}/sweeper.db"
    optuna.create_study(storage=storage, study_name=name, direction="maximize")
    for command in ("report", "status"):
        said = sweeper(command)
        assert (said.code, said.out, len(said.err)) == (2, "", 1), said
        assert "study name" in said.err[0]
    assert not list(planted.home.parent.glob("**/*.html"))
    said = sweeper("status", "other")
    assert (said.code, len(said.err)) == (2, 1), said


def test_the_report_leaves_out_a_bad_run_and_says_so(planted: Planted, sweeper: Callable[..., Said]) -> None:
    study = optuna.create_study(
        storage=f"sqlite:///{planted.home}/sweeper.db", study_name="swept", direction="maximize"
    )
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("lr", 0.1, 0.2)
        study.tell(trial, 0.5)
    runs = planted.home / "journal" / "swept"
    runs.mkdir()
    for number, name in enumerate(("0000", "champion-0000")):
        write(JournalTracker(planted.home / "journal").start(info(f"k{number}")))
        shutil.move(planted.home / f"journal/demo/k{number}", runs / name)
        shutil.move(runs / name / "events.jsonl", planted.outside / name)
        (runs / name / "events.jsonl").symlink_to(planted.outside / name)
    said = sweeper("report", "swept")
    assert said.code == 0, said
    for name in ("swept/0000", "swept/champion-0000"):
        assert sum(name in line for line in said.err) == 1, said
