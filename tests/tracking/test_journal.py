from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.core.errors import SweeperError
from sweeper.tracking.base import FINISHED, KILLED, NullTracker, RunInfo
from sweeper.tracking.journal import JournalLog, JournalTracker
from sweeper.tracking.reading import ARTIFACTS, EVENTS, history, read_events

RUN = RunInfo(
    key="uid/7",
    name="007 bn",
    params={"lr": "0.001"},
    tags={"sweeper.kind": "trial"},
    description="A network.",
    folder="demo/0007",
    dataset={"name": "sample", "sha256": "0" * 64, "source": "/data", "profile": {}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / RUN.folder


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in read_events(folder)]


# --- events --------------------------------------------------------------------------------------


def test_a_run_is_its_events_in_order(folder: Path) -> None:
    log = JournalTracker(folder.parents[1]).start(RUN)
    log.epoch(1, {"val/loss": 0.5})
    log.end(FINISHED, {"best/val_loss": 0.5}, {"sweeper.state": "complete"})
    start, epoch, end = read_events(folder)
    assert {key: start[key] for key in ("event", "key", "name", "params", "description", "dataset", "run_id")} == {
        "event": "start", "key": "uid/7", "name": "007 bn", "params": {"lr": "0.001"}, "description": "A network.",
        "dataset": RUN.dataset, "run_id": None,
    }  # fmt: skip
    assert (epoch["event"], epoch["step"], epoch["metrics"]) == ("epoch", 1, {"val/loss": 0.5})
    assert (end["event"], end["status"]) == ("end", "FINISHED")
    assert (end["metrics"], end["tags"]) == ({"best/val_loss": 0.5}, {"sweeper.state": "complete"})
    assert start["time"] <= epoch["time"] <= end["time"]


def test_each_event_is_appended_whole_and_on_disk_before_anybody_hears_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    heard: list[bytes] = []

    def spy(descriptor: int) -> None:
        with (folder / EVENTS).open("rb") as stream:
            if os.path.sameopenfile(descriptor, stream.fileno()):
                synced.append(stream.read())

    monkeypatch.setattr(os, "fsync", spy)
    for _ in range(2):
        log = JournalLog(folder, RUN, lambda _: heard.append(synced[-1]))
        log.epoch(1, {"loss": 1.0})
        log.end(FINISHED, {}, {})
    assert heard == synced
    assert [content.count(b"\n") for content in synced] == [1, 2, 3, 4, 5]  # the second epoch 1 adds nothing
    assert all(content.endswith(b"\n") for content in synced)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(synced))


def test_what_happens_in_a_block_is_on_disk_at_its_end_before_anybody_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()  # inodes
    heard: list[Path] = []

    class Heard(JournalTracker):
        def written(self, folder: Path) -> None:
            assert (folder / EVENTS).stat().st_ino in synced or len(heard) < 20
            heard.append(folder)

    tracker = Heard(tmp_path)
    folders = [tmp_path / str(number) for number in range(20)]
    logs = [tracker.start(replace(RUN, folder=folder.name)) for folder in folders]
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    with contextlib.suppress(KeyError), tracker.together():
        for log in logs:
            log.epoch(1, {"loss": 1.0})
        logs[0].artifact("a.txt", b"a")
        logs[0].end(FINISHED, {}, {})
        assert heard == folders  # their starts
        assert synced == set()
        raise KeyError
    assert sorted(heard[20:]) == sorted(folders)
    assert all(history(read_events(folder)) == [{"epoch": 1, "loss": 1.0}] for folder in folders)
    assert kinds(folders[0]) == ["start", "epoch", "end"]
    assert (folders[0] / ARTIFACTS / "curves/history.csv").read_text() == "epoch,loss\n1,1.0\n"
    logs[1].epoch(2, {"loss": 0.5})
    assert heard[40:] == folders[1:2]
    JournalLog(folders[0], RUN)  # which nobody holds


def test_a_block_writes_a_whole_run_with_one_fsync_of_its_events_after_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, synced, sync = JournalTracker(tmp_path), list[str](), os.fsync

    def spy(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.strip(".").split(".")[0])
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with tracker.together():
        log = tracker.start(RUN)
        log.artifact("config.json", b"{}")
        log.epoch(1, {"loss": 1.0})
        log.epoch(2, {"loss": 0.5})
        log.end(FINISHED, {}, {})
    assert synced == ["config", "history", "events"]
    assert kinds(tmp_path / RUN.folder) == ["start", "epoch", "epoch", "end"]
    JournalLog(tmp_path / RUN.folder, RUN)  # nobody holds it


def test_a_run_that_cannot_be_written_does_not_keep_others_from_it(tmp_path: Path) -> None:
    """Nor is anything ever there of a run that has no start."""
    tracker, logs = JournalTracker(tmp_path), list[JournalLog]()
    in_the_way = tmp_path / "0" / ARTIFACTS / "config.json"

    def block() -> None:
        with tracker.together():
            logs.extend(tracker.start(replace(RUN, key=str(n), folder=str(n))) for n in range(40))
            in_the_way.mkdir()
            for log in logs:
                log.artifact("config.json", b"{}")
                log.epoch(1, {"loss": 1.0})

    with pytest.raises(IsADirectoryError):
        block()
    assert kinds(tmp_path / "0") == []
    assert all(kinds(tmp_path / str(n)) == ["start", "epoch"] for n in range(1, 40))
    logs[0].end(KILLED, {}, {})
    assert kinds(tmp_path / "0") == ["start", "end"]


def test_a_run_that_ended_in_a_block_can_be_begun_again_in_it(tmp_path: Path) -> None:
    tracker = JournalTracker(tmp_path)
    with tracker.together():
        tracker.start(RUN).end("FAILED", {}, {})
        tracker.start(RUN).epoch(1, {"loss": 1.0})
    assert kinds(tmp_path / RUN.folder) == ["start", "end", "start", "epoch"]


def test_a_step_recorded_twice_stays_as_it_was(folder: Path) -> None:
    log = JournalLog(folder, RUN)
    log.epoch(1, {"loss": 1.0})
    log.epoch(1, {"loss": 2.0})
    del log  # its process died
    JournalLog(folder, RUN).epoch(1, {"loss": 3.0})
    assert history(read_events(folder)) == [{"epoch": 1, "loss": 1.0}]


def test_the_attempt_counts_up_each_time_the_run_is_started(folder: Path) -> None:
    for _ in range(3):
        JournalLog(folder, RUN)
    assert [event["tags"]["sweeper.attempt"] for event in read_events(folder)] == ["1", "2", "3"]
    assert [event["tags"]["sweeper.kind"] for event in read_events(folder)] == ["trial"] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite_is_refused_and_leaves_no_trace(folder: Path, value: float) -> None:
    log = JournalLog(folder, RUN)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.epoch(1, {"loss": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.end(FINISHED, {"loss": value}, {})
    assert kinds(folder) == ["start"]
    log.epoch(1, {"loss": 1.0})
    assert kinds(folder) == ["start", "epoch"]


def test_text_of_any_kind_comes_back_as_it_was(folder: Path) -> None:
    text = "nl \n cr \r ls \u2028 nel \x85 nul \0 ü 😀"
    JournalLog(folder, RUN).end(FINISHED, {}, {"reason": text, "half": f"{text}\ud800"})
    assert read_events(folder)[-1]["tags"] == {"reason": text, "half": f"{text}?"}


# --- one writer ------------------------------------------------------------------------------------


def test_a_run_that_is_being_written_is_refused_to_others(folder: Path) -> None:
    log = JournalLog(folder, RUN)
    with pytest.raises(SweeperError, match="another process is writing this run"):
        JournalLog(folder, RUN)
    log.end(FINISHED, {}, {})
    JournalLog(folder, RUN)


def test_only_a_run_whose_writer_is_gone_is_ended_as_abandoned(folder: Path) -> None:
    tracker = JournalTracker(folder.parents[1])
    tracker.reconcile("demo")  # where there is no run
    log = JournalLog(folder, RUN)
    log.epoch(1, {"loss": 1.0})
    tracker.reconcile("demo")
    assert kinds(folder) == ["start", "epoch"]
    del log
    with (folder / EVENTS).open("ab") as stream:
        stream.write(b'{"event": "epo')
    for _ in range(2):
        tracker.reconcile("demo")
        assert kinds(folder) == ["start", "epoch", "end"]
    *_, last = read_events(folder)
    assert (last["status"], last["tags"]["sweeper.state"]) == (KILLED, "killed")


# --- crashes -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(min_value=0), again=st.integers(1, 4))
def test_a_crash_at_any_byte_loses_that_line_alone(
    tmp_path_factory: pytest.TempPathFactory, cut: int, again: int
) -> None:
    folder = tmp_path_factory.mktemp("run", numbered=True)
    log = JournalLog(folder, RUN)
    for step in (1, 2, 3):
        log.epoch(step, {"loss": 1 / step})
    del log
    whole = read_events(folder)
    content = (folder / EVENTS).read_bytes()
    cut %= len(content) + 1
    (folder / EVENTS).write_bytes(content[:cut])
    survived = content[:cut].count(b"\n")
    assert read_events(folder) == whole[:survived]

    continued = JournalLog(folder, RUN)
    continued.epoch(again, {"loss": 9.0})
    events = [json.loads(line) for line in (folder / EVENTS).read_text().split("\n")[:-1]]
    assert events[:survived] == whole[:survived]
    assert [event["event"] for event in events[survived:]] == ["start"] + ["epoch"] * (again >= max(survived, 1))


def test_a_reader_leaves_a_torn_line_to_the_writer(folder: Path) -> None:
    JournalLog(folder, RUN)
    with (folder / EVENTS).open("ab") as stream:
        stream.write(b'{"event": "epo')
    torn = (folder / EVENTS).read_bytes()
    assert kinds(folder) == ["start"]
    assert (folder / EVENTS).read_bytes() == torn


class Torn(io.FileIO):
    """A file on a disk that is full after ten more bytes: the system writes what fits, and says how much."""

    def write(self, line: bytes) -> int:
        return super().write(line[:10])


def test_an_event_after_a_write_that_failed_half_way_is_readable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = JournalLog(folder, RUN)
    with monkeypatch.context() as full:
        full.setattr(os, "fdopen", lambda descriptor, *_, **__: Torn(descriptor, "a"))
        with pytest.raises(OSError, match="No space"):
            log.epoch(1, {"loss": 1.0})
    log.end(KILLED, {}, {})
    assert kinds(folder) == ["start", "end"]


# --- files ---------------------------------------------------------------------------------------


def test_an_artifact_lies_under_its_name_and_replaces_an_earlier_one(folder: Path) -> None:
    log = JournalLog(folder, RUN)
    log.artifact("model/state.bin", b"one")
    log.artifact("model/state.bin", b"two")
    files = {
        p.relative_to(folder / ARTIFACTS): p.read_bytes() for p in (folder / ARTIFACTS).glob("**/*") if p.is_file()
    }
    assert files == {Path("model/state.bin"): b"two"}


def test_a_file_that_a_killed_process_had_half_written_is_gone_at_the_next_start(folder: Path) -> None:
    JournalTracker(folder.parents[1]).start(RUN).artifact("model/weights", b"whole")
    (folder / ARTIFACTS / "model/.weights.1.part").write_bytes(b"ha")
    (folder / ARTIFACTS / f"model/.weights.{os.getpid()}.part").write_bytes(b"being written")
    JournalTracker(folder.parents[1]).start(RUN)
    left = {path.name for path in (folder / ARTIFACTS / "model").iterdir()}
    assert left == {"weights", f".weights.{os.getpid()}.part"}


def test_the_history_of_an_ended_run_lies_beside_it_as_csv(folder: Path) -> None:
    JournalLog(folder, RUN).end(FINISHED, {"x": 1.0}, {})
    assert list((folder / ARTIFACTS).iterdir()) == []  # it has no epochs
    log = JournalLog(folder, RUN)
    log.epoch(2, {"loss": 0.5, "accuracy": 0.75})
    log.epoch(1, {"loss": 1.0, "accuracy": 0.5})
    log.end(FINISHED, {}, {})
    assert (folder / ARTIFACTS / "curves" / "history.csv").read_text() == (
        "epoch,loss,accuracy\n1,1.0,0.5\n2,0.5,0.75\n"
    )


def test_no_tracking_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = NullTracker().start(RUN)
    log.epoch(1, {"loss": float("nan")})
    log.artifact("file", b"content")
    log.end(FINISHED, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_other_parameters_are_another_run_each_time(tmp_path: Path):
    """As after an older study database was restored: what was recorded of that trial stays aside, with its own key."""
    tracker, keys = JournalTracker(tmp_path), []
    for lr in ("0.1", "0.2", "0.3"):
        run = RunInfo("uid/3", "003", {"lr": lr, "device": "cpu"}, {}, "", "demo/0003", {})
        tracker.start(run).end(FINISHED, {}, {"sweeper.state": "complete"})
        assert tracker.recorded(run)
        assert tracker.recorded(replace(run, params={"lr": lr, "device": "cuda"}))  # the same, on another device
        keys.append(read_events(tmp_path / "demo/0003")[0]["key"])
    assert keys[0] == "uid/3"
    assert len({*keys}) == 3
    assert len(list((tmp_path / "demo").iterdir())) == 3
