"""The command line: output, errors, imports, and how a command ends. Bad input is in test_bad_input.py."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import COLLECT_AFTER, cli, main
from sweeper.core.errors import UsageError
from sweeper.tracking.base import KILLED
from sweeper.tracking.reading import read_events
from tests.process.conftest import Answer, listing

LARGE = {"mlflow", "optuna", "pandas", "ray", "requests", "torch"}
SAMPLE = ("--dataset", "sample")
ONE_EPOCH = ("train", "--exp", "1", "--epochs", "1", *SAMPLE)


def spelled(argument: Any) -> str | None:
    """A test's name for a list of words."""
    return " ".join(argument) if isinstance(argument, list | tuple) else None


@pytest.fixture
def copied(finished_sweep: Any, tmp_path: Path) -> Path:
    """A copy of the finished sweep."""
    return Path(shutil.copytree(finished_sweep.home, tmp_path / "home"))


# --- errors, and the end of a command ------------------------------------------------------------------

ENDS = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold()))  # after what main() registers
from sweeper.cli.main import main
sys.argv = ["sweeper", "--version"]
main()
"""


def test_the_end_of_a_command_looks_for_no_garbage_in_what_was_imported() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == f"True {COLLECT_AFTER}"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweeper", "--debug", "status"])
    with pytest.raises(UsageError):
        main()


def test_an_error_nobody_foresaw_is_one_line_too(
    sweeper: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def breaks(*_: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("sweeper.study.reading.read_study", breaks)
    expected = "error: RuntimeError: two lines (sweeper --debug … shows where)\n"
    assert sweeper(tmp_path, "status") == (1, "", expected)


def unread(argv: tuple[str, ...], cwd: Path, env: dict[str, str], **streams: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose reader has gone, as `| head -1` does, but always before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sweeper", *argv]
    streams = {"stdout": writer, "stderr": subprocess.PIPE} | streams
    try:
        return subprocess.run(command, cwd=cwd, env=env, timeout=120, check=False, **streams)
    finally:
        os.close(writer)


@pytest.mark.parametrize("argv", [("--help",), ("optimize", "--help"), ("status",)], ids=spelled)
def test_a_reader_who_has_had_enough_is_no_error(finished_sweep: Any, alone: dict[str, str], argv: tuple[str, ...]):
    done = unread(argv, finished_sweep.home, alone)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_training_that_nobody_reads_any_more_ends_as_sigpipe_ends_it(
    tmp_path: Path, alone: dict[str, str], both: bool
):
    argv = (*ONE_EPOCH, "--tracking-uri", "offline")
    done = unread(argv, tmp_path, alone, **({"stderr": subprocess.STDOUT} if both else {}))
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == (None if both else b"error: stopped by SIGPIPE\n")
    (run,) = (tmp_path / "journal/runs").iterdir()
    assert (read_events(run)[-1]["event"], read_events(run)[-1]["status"]) == ("end", KILLED)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (("optimize", "--no-final"), "sweeper.sweep.optimize.optimize"),
        (("reproduce", "--offline"), "sweeper.replication.reproduce.reproduce"),
    ],
    ids=["optimize", "reproduce"],
)
def test_many_trainings_that_nobody_reads_any_more_end_so_too(
    sweeper: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], what: str
):
    def breaks(*_: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe", "<stdout>")

    monkeypatch.setattr(what, breaks)
    answer = sweeper(tmp_path, *argv, *SAMPLE)
    assert (answer.code, answer.err) == (141, "error: stopped by SIGPIPE\n")


# --- imports -------------------------------------------------------------------------------------------

PROBE = """
import atexit, sys
atexit.register(lambda: print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
from sweeper.cli.main import main
main()
"""


def probe(argv: tuple[str, ...], cwd: Path, env: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command in a process of its own; the packages it imported are the last line of its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return done, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("optimize", "--help"), 0),
        (("xray", "--help"), 0),
        (("--version",), 0),
        (("trian",), 2),
        (("train", "--batch-size", "1"), 2),
        (("optimize", "--study", "../x"), 2),
        (("optimize", "--space", "nowhere"), 2),
        (("reproduce", "--exp", "9"), 2),
    ],
    ids=spelled,
)
def test_help_and_refusals_import_nothing_large(
    tmp_path: Path, alone: dict[str, str], argv: tuple[str, ...], code: int
):
    done, imported = probe(argv, tmp_path, alone)
    assert done.returncode == code
    assert "click" in imported
    assert imported & LARGE == set()


@dataclass(frozen=True)
class Offline:
    """An offline training of one epoch, run on a stdout that knows ASCII only."""

    home: Path
    done: subprocess.CompletedProcess[str]
    imported: set[str]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> Offline:
    home = tmp_path_factory.mktemp("offline")
    argv = (*ONE_EPOCH, "--tracking-uri", "offline")
    return Offline(home, *probe(argv, home, alone | {"PYTHONIOENCODING": "ascii"}))


def test_an_offline_training_imports_no_mlflow_and_leaves_a_journal_alone(offline: Offline):
    assert "torch" in offline.imported
    assert {"mlflow", "ray"} & offline.imported == set()
    assert [path.name for path in offline.home.iterdir()] == ["journal"]
    (run,) = (offline.home / "journal/runs").iterdir()
    assert (run / "artifacts/curves/history.csv").is_file()


def test_a_stdout_that_knows_ascii_only_is_enough(offline: Offline):
    assert offline.done.returncode == 0, offline.done.stderr
    assert "epoch 1/1  val accuracy" in offline.done.stdout
    assert offline.done.stdout.isascii()


# --- output --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [None, *cli.commands])
def test_help_is_ascii(sweeper: Callable[..., Answer], tmp_path: Path, command: str | None):
    answer = sweeper(tmp_path, *([command] if command else []), "--help")
    assert answer.code == 0
    assert answer.out.startswith("Usage: ")
    assert answer.out.isascii()


@pytest.mark.parametrize(
    ("argv", "keys"),
    [(["status", "--json"], {"study", "target", "metric", "driver", "trials"}), (["sync", "--json"], {"carried"})],
    ids=spelled,
)
# MLflow's own use of SQLAlchemy 2.1
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
def test_json_is_one_object_and_nothing_else_on_stdout(
    sweeper: Callable[..., Answer], copied: Path, argv: list[str], keys: set[str]
):
    answer = sweeper(copied, *argv)
    assert answer.code == 0
    (line,) = answer.out.splitlines()
    assert set(json.loads(line)) == keys


def test_a_finished_sweep_can_be_asked_for_again(tmp_path: Path, alone: dict[str, str]):
    """Its report is then drawn at once, while another thread still imports MLflow."""
    sweep = ("optimize", "--trials", "2", "--exp", "1", "--dataset", "sample", "--epochs", "1", "--no-final", "--json")
    for added in (2, 0):
        command = [sys.executable, "-m", "sweeper", *sweep]
        done = subprocess.run(
            command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["added"] == added


def test_json_of_a_whole_sweep_is_one_line_and_the_words_go_to_stderr(finished_sweep: Any):
    assert len(finished_sweep.stdout.splitlines()) == 1
    keys = {
        "study",
        "metric",
        "finished",
        "complete",
        "pruned",
        "failed",
        "best",
        "command",
        "journal",
        "test",
        "report",
        "added",
        "in_time",
        "remarks",
    }
    assert set(finished_sweep.result) == keys
    assert (finished_sweep.result["finished"], finished_sweep.result["added"]) == (6, 6)
    assert "trial 5: complete" in finished_sweep.stderr
    assert "MLflow database:" in finished_sweep.stderr
    assert "evaluated once" in finished_sweep.stderr


def test_the_same_settings_with_another_number_of_workers_or_trials_are_no_conflict(
    sweeper: Callable[..., Answer], finished_sweep: Any, copied: Path
):
    changed = ("--trials", "4", "--workers", "2", "--no-final", "--tracking-uri", "offline", "--json")
    answer = sweeper(copied, *finished_sweep.argv, *changed)
    assert answer.code == 0
    assert "continuing it (6 trials finished)" in answer.err
    assert json.loads(answer.out)["added"] == 0


@pytest.mark.parametrize("json_output", [True, False], ids=["json", "words"])
def test_a_sweep_whose_time_is_over_is_reported_and_ends_with_exit_code_3(
    sweeper: Callable[..., Answer], finished_sweep: Any, copied: Path, json_output: bool
):
    (copied / "report/sweep.html").unlink()
    argv = (*finished_sweep.argv[:-2], "--engine", "serial")  # in place of worker processes
    more = (
        "--trials",
        "8",
        "--timeout",
        "0.001",
        "--tracking-uri",
        "offline",
        *(["--json"] if json_output else []),
    )
    answer = sweeper(copied, *argv, *more)
    assert answer.code == 3
    says = r"error: ([67]) of 8 trials finished before --timeout. Run the same command again to continue."
    said = re.fullmatch(says, answer.err.splitlines()[-1])
    assert said, answer.err
    added = int(said[1]) - 6  # a fast machine begins a trial within the millisecond
    assert f"; {added} new)" in (answer.err if json_output else answer.out)
    assert (copied / "report/sweep.html").is_file()
    if json_output:
        result = json.loads(answer.out)
        assert (result["finished"], result["added"], "test" in result) == (6 + added, added, False)
        assert added or result["best"] == finished_sweep.result["best"]


def test_the_line_of_the_best_configuration_trains_it_again(sweeper: Callable[..., Answer], finished_sweep: Any):
    command = finished_sweep.result["command"]
    assert f"train it again: {command}\n" in finished_sweep.stderr
    answer = sweeper(finished_sweep.home, *shlex.split(command)[1:], "--tracking-uri", "none", "--json")
    assert answer.code == 0, answer.err
    trained, best = json.loads(answer.out), finished_sweep.result["best"]
    assert {name: trained["config"][name] for name in best["params"]} == best["params"]
    assert trained["config"]["split"] == "holdout"


def test_a_cross_validation_can_be_trained_alone(sweeper: Callable[..., Answer], tmp_path: Path):
    argv = (*ONE_EPOCH, "--folds", "2", "--train-images", "200", "--tracking-uri", "none", "--json")
    answer = sweeper(tmp_path, *argv)
    assert answer.code == 0, answer.err
    config = json.loads(answer.out)["config"]
    assert (config["split"], config["folds"], config["train_images"]) == ("folds", 2, 200)


def test_status_shows_a_sweep_from_another_terminal(sweeper: Callable[..., Answer], finished_sweep: Any):
    lines = sweeper(finished_sweep.home, "status").out.splitlines()
    assert lines[0] == "study sweep: 6/6 trials finished, 6 complete, 0 pruned, 0 failed, 0 running"
    assert lines[1] == "best so far:"
    assert len(lines) == 2 + 5 + 2
    interval = r"95 % interval \[0\.\d{4}, 0\.\d{4}\]"
    assert re.fullmatch(rf"champion: trial \d, test accuracy 0\.\d{{4}}, {interval}", lines[-2])
    assert lines[-1] == f"report: {finished_sweep.home}/report/sweep.html"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # of MLflow
def test_every_printed_path_is_absolute_and_every_command_can_be_pasted(
    sweeper: Callable[..., Answer], finished_sweep: Any, tmp_path: Path
):
    home = tmp_path / "my sweeps"
    shutil.copytree(finished_sweep.home, home)
    answer = sweeper(home, *finished_sweep.argv, "--tracking-uri", "sqlite:///mlflow.db")
    assert answer.code == 0, answer.err
    said = dict(line.split(":", 1) for line in answer.out.splitlines() if ":" in line)
    assert said["report"].strip() == str(home / "report/sweep.html")
    assert said["MLflow database"].strip() == str(home / "mlflow.db")
    program, *words = shlex.split(said["view in MLflow"])
    assert Path(program).is_absolute()
    assert words == ["ui"]


def test_report_writes_one_file_and_says_where_and_how_large(sweeper: Callable[..., Answer], copied: Path):
    answer = sweeper(copied, "report", "--json")
    result = json.loads(answer.out)
    path = copied / "report/sweep.html"
    assert result == {"study": "sweep", "report": str(path), "bytes": path.stat().st_size}
    assert answer.err == f"report of 'sweep': {path} ({result['bytes'] / 1e6:.1f} MB)\n"
    page = path.read_text()
    assert page.startswith("<!doctype html>")
    assert "Its most confident errors" in page
    assert sweeper(copied, "report", "sweep", "--output", "elsewhere/a.html").code == 0
    assert (copied / "elsewhere/a.html").read_text() == page
    assert [path.name for path in (copied / "elsewhere").iterdir()] == ["a.html"]


def test_an_optimize_leaves_its_report_here_and_in_mlflow(finished_sweep: Any):
    here = finished_sweep.home / "report/sweep.html"
    assert finished_sweep.result["report"] == str(here)
    (there,) = finished_sweep.home.glob("mlartifacts/*/artifacts/report.html")
    assert there.read_bytes() == here.read_bytes()
    assert [path.name for path in here.parent.iterdir()] == ["sweep.html"]


def test_training_without_tracking_records_nothing(sweeper: Callable[..., Answer], tmp_path: Path):
    argv = (*ONE_EPOCH, "--batch-size", "512", "--tracking-uri", "none", "--json")
    answer = sweeper(tmp_path, *argv)
    assert answer.code == 0
    assert listing(tmp_path) == {}
    assert "nothing was recorded" in answer.err
    result = json.loads(answer.out)
    assert result["run_id"] is result["journal"] is None
    assert result["config"]["batch_size"] == 512


def test_a_training_that_diverges_is_one_line_and_exit_code_1(sweeper: Callable[..., Answer], tmp_path: Path):
    answer = sweeper(tmp_path, *ONE_EPOCH, "--lr", "1e4", "--tracking-uri", "none")
    assert answer.code == 1
    assert "lower lr" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_engine_fused_means_gpu_and_warns_in_one_line(sweeper: Callable[..., Answer], tmp_path: Path):
    warning, error = sweeper(tmp_path, "optimize", *SAMPLE, "--device", "cpu", "--engine", "fused").err.splitlines()
    assert warning == "warning: --engine fused is now --engine gpu. Use the new name."
    assert error.startswith("error: engine='gpu': the device is cpu")
