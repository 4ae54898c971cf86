"""The command line: what it refuses and how, what it prints where, and what it does not import."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.cli import cli, main
from sweeper.config import EXPERIMENT_TITLES
from sweeper.errors import UsageError

LARGE = {"mlflow", "optuna", "pandas", "ray", "torch"}
UNREACHABLE = "127.0.0.1:1"  # nothing listens on port 1
CANARY = "s3cret-canary"


@dataclass(frozen=True)
class Answer:
    """What one command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in an environment that configures nothing."""
    for name in [n for n in os.environ if n.startswith(("SWEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # which main() would leave behind
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def sweeper(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command in this process."""

    def call(*argv: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["sweeper", *argv])
        with pytest.raises(SystemExit) as done:
            main()
        return Answer(int(done.value.code or 0), *capsys.readouterr())

    return call


def spelled(argument: Any) -> str | None:
    """A test's name for a list of words."""
    return " ".join(argument) if isinstance(argument, list | tuple) else None


def listing(folder: Path) -> dict[Path, bytes]:
    """Every file and what it holds, but for the note of who held a study last."""
    return {
        path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*") if path.suffix != ".holder"
    }


@pytest.fixture
def refused(sweeper: Callable[..., Answer], home: Path) -> Callable[..., str]:
    """Runs a command that must be refused: the exit code, one line on stderr, and nothing created or changed."""

    def call(argv: list[str], code: int) -> str:
        before = listing(home)
        answer = sweeper(*argv)
        assert answer.err.startswith("error: ")
        assert len(answer.err.splitlines()) == 1
        assert answer.out == ""
        assert answer.code == code
        assert listing(home) == before
        return answer.err

    return call


# --- bad input -----------------------------------------------------------------------------------------

EIGHT = tuple(EXPERIMENT_TITLES.values())
SAMPLE = ("--dataset", "sample")
UNTRACKED = ("--tracking-uri", "none")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")

# option: {bad value: words of the message}; "" is the value itself where nothing better is said
BAD_TRAIN: dict[str, dict[str, tuple[str, ...]]] = {
    "--exp": {"0": ("0", *EIGHT), "9": ("9", *EIGHT), "abc": ("abc", *EIGHT), "": EIGHT},
    "--epochs": {"0": ("0", ">=1"), "-1": ("-1", ">=1"), "1.5": ("1.5",), "x": ("x",), "10001": ("10001", "10000")},
    "--batch-size": {
        "0": ("0", ">=1"), "-1": ("-1", ">=1"), "1.5": ("1.5",), "a": ("a",), "60001": ("60001", "60000"),
        "1": ("batch_size=1", "BatchNorm"),
    },
    **{
        f"--{part}-dropout": {
            "-0.1": ("-0.1", "0<=x<1"), "1.0": ("1.0", "0<=x<1"), "1.1": ("1.1", "0<=x<1"), "x": ("x",),
            "nan": ("nan", f"{part}_dropout"), "inf": ("inf",),
        }
        for part in ("conv", "head")
    },
    "--lr": {"0": ("0", "x>0"), "-1": ("-1", "x>0"), "nan": ("nan", "lr"), "inf": ("inf", "lr"), "x": ("x",)},
    "--placement": {"foo": ("foo", "bn-head-dropout")},
    "--split": {"folds": ("folds", "holdout")},
    "--seed": {"-1": ("-1",), "x": ("x",), "2147483648": ("2147483648",)},
    "--precision": {"fp16": ("fp16", "bf16")},
    "--dataset": {"cifar": ("cifar", "sample")},
    "--device": {"foo": ("foo", "cpu"), "": ("cpu",), "cuda:9": ("cuda:9",), "meta": ("meta", "cpu")},
    "--tracking-uri": {
        "": ("offline",), "ftp://host/x": ("ftp://host/x", "http://"), "mlruns": ("mlruns", "sqlite:///"),
        "file:///tmp/mlruns": ("file:///tmp/mlruns",), "://": ("://",),
    },
}  # fmt: skip

BAD_OPTIMIZE: dict[str, dict[str, tuple[str, ...]]] = {
    "--trials": {v: (v,) for v in ("0", "-1", "abc", "1e3", "1000000000000", "2.5", "")},
    "--workers": {v: (v,) for v in ("0", "-1", "1.5", "1000000")},
    "--folds": {"1": ("1", "2 or more"), "-1": ("-1",), "101": ("101", "100"), "7001": ("7001", "100")},
    "--study": {
        v: (repr(v)[:40].rstrip("'"), "1 to 100 letters")
        for v in ("", "x" * 101, "../x", "..", ".x", "a b", "a/b", "a\nb", "a\x00b", "\x1b[31m", "<b>bold</b>", "ü")
    },
    "--storage": {
        "": ("sqlite:///",), "foo": ("foo", "sqlite:///"), "mysql://u:p@h/d": ("mysql", "postgresql://"), "://": ("://",),
    },
    "--sampler": {"foo": ("foo", "tpe")},
    "--pruner": {"foo": ("foo", "median")},
    "--model": {"huge": ("huge", "large")},
    "--augmentation": {"mixup": ("mixup", "crop-flip")},
    "--timeout": {"0": ("0",), "-1": ("-1",), "x": ("x",)},
    **{option: BAD_TRAIN[option] for option in ("--exp", "--seed", "--device", "--tracking-uri", "--precision")},
    "--epochs": BAD_TRAIN["--epochs"],
}  # fmt: skip


BAD_REPRODUCE: dict[str, dict[str, tuple[str, ...]]] = {
    "--exp": dict.fromkeys(("0", "9", "1,9", "abc", "", "8-6", "1,,2", "1-999999999"), (*EIGHT, "6-8")),
    "--seeds": {v: (v,) for v in ("0", "-1", "1.5", "x", "1001")},
    "--protocol": {"slow": ("slow", "quick")},
    "--arms": {"some": ("some", "experiments")},
    "--tracking-uri": BAD_TRAIN["--tracking-uri"] | {"none": ("none", "offline")},
    **{option: BAD_TRAIN[option] for option in ("--device", "--precision", "--dataset")},
    "--workers": BAD_OPTIMIZE["--workers"],
}


def rows(command: str, table: dict[str, dict[str, tuple[str, ...]]]) -> list[Any]:
    return [
        pytest.param(command, option, value, words, id=f"{command} {option} {value[:20]!r}")
        for option, values in table.items()
        for value, words in values.items()
    ]


@pytest.mark.parametrize(
    ("command", "option", "value", "words"),
    [*rows("train", BAD_TRAIN), *rows("optimize", BAD_OPTIMIZE), *rows("reproduce", BAD_REPRODUCE)],
)
def test_a_bad_value_is_refused_in_one_line_that_says_what_is_allowed(
    refused: Callable[..., str], command: str, option: str, value: str, words: tuple[str, ...]
):
    dataset = () if option == "--dataset" else SAMPLE
    message = refused([command, *dataset, option, value], 2)
    assert [word for word in words if word not in message] == []


@no_gpu
@pytest.mark.parametrize("command", ["train", "optimize"])
def test_cuda_is_refused_where_there_is_no_gpu(refused: Callable[..., str], command: str):
    assert "device='cuda'" in refused([command, *SAMPLE, "--device", "cuda"], 2)


@pytest.mark.parametrize(
    ("argv", "limit"),
    [
        (["train", *SAMPLE, "--exp", "1", "--batch-size", "7001"], "7000"),
        (["train", *SAMPLE, "--exp", "1", "--split", "holdout", "--batch-size", "6001"], "6000"),
    ],
    ids=["all", "holdout"],
)
def test_a_batch_larger_than_the_training_set_is_refused(refused: Callable[..., str], argv: list[str], limit: str):
    message = refused(argv, 2)
    assert f"batch_size={argv[-1]}" in message
    assert f"{limit} training images" in message


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["frobnicate"], f"the commands are {', '.join(sorted(cli.commands))}"),
        (["train", "--epoch", "1"], "'--epochs'"),
        (["optimize", "--trails", "3"], "'--trials'"),
        (["optimize", "--final=no"], "--final"),
        (["status", "a", "b"], "unexpected extra argument (b)"),
        (["--frobnicate"], "'--frobnicate'"),
    ],
    ids=spelled,
)
def test_an_unknown_word_is_answered_with_the_known_one(refused: Callable[..., str], argv: list[str], hint: str):
    assert hint in refused(argv, 2)


SPACES = {
    "unknown: [1]": "unknown field 'unknown'",
    "batch_size: []": "empty choice",
    "head_dropout: {low: 0.5, high: 0.1}": "low is above high",
    "head_dropout: {low: .nan, high: 0.5}": "finite",
    "head_dropout: {low: 0, high: 1.0}": "head_dropout='1.0'",
    "lr: {low: 0, high: 1, log: true}": "above 0",
    "placement: [nowhere]": "nowhere",
    "batch_size: [64, 6001]": "batch_size=6001",
    "a: [1\nb: ]": "not YAML",
    "a: &x [1]\nb: [*x, *x]": "aliases",
    "[1, 2]": "not a mapping",
    "": "not a mapping",
    "x: " + "y" * 100_000: "larger than",
}


@pytest.mark.parametrize(("text", "words"), SPACES.items(), ids=[s[:30] for s in SPACES])
def test_a_bad_search_space_is_refused(refused: Callable[..., str], tmp_path: Path, text: str, words: str):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    assert words in refused(["optimize", *SAMPLE, "--space", str(file)], 2)


def test_a_missing_search_space_is_refused(refused: Callable[..., str]):
    assert "nowhere.yaml" in refused(["optimize", *SAMPLE, "--space", "nowhere.yaml"], 2)


@pytest.fixture(params=["missing", "file", "empty", "damaged"])
def bad_data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder, or not, from which FashionMNIST cannot be read."""
    folder = tmp_path / request.param
    if request.param == "file":
        folder.touch()
    elif request.param != "missing":
        folder.mkdir()
    if request.param == "damaged":
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (folder / f"{part}-ubyte").write_bytes(b"\0")
    return folder


@pytest.mark.parametrize("command", ["train", "optimize", "reproduce"])
def test_a_data_folder_that_cannot_be_read_fails_before_anything_is_created(
    refused: Callable[..., str], bad_data: Path, command: str
):
    message = refused([command, "--data-dir", str(bad_data), "--tracking-uri", "offline"], 1)
    assert str(bad_data) in message


@pytest.mark.parametrize(
    "argv",
    [
        ["train", *SAMPLE, "--tracking-uri", f"http://user:{CANARY}@{UNREACHABLE}"],
        ["optimize", *SAMPLE, "--tracking-uri", f"postgresql://user:{CANARY}@{UNREACHABLE}/mlflow"],
        ["optimize", *SAMPLE, "--storage", f"postgresql://user:{CANARY}@{UNREACHABLE}/study"],
        ["optimize", *SAMPLE, "--storage", f"postgres://user:{CANARY}@{UNREACHABLE}/study"],
        ["status", "--storage", f"postgresql://user:{CANARY}@{UNREACHABLE}/study"],
    ],
    ids=["train-tracking", "optimize-tracking", "optimize-storage", "postgres-is-postgresql", "status"],
)
def test_a_service_that_does_not_answer_is_exit_code_4_without_its_password(
    refused: Callable[..., str], argv: list[str]
):
    message = refused(argv, 4)
    assert UNREACHABLE in message
    assert CANARY not in message


def test_sync_says_when_the_server_does_not_answer(refused: Callable[..., str], home: Path):
    (home / "journal").mkdir()
    assert UNREACHABLE in refused(["sync", "--tracking-uri", f"http://{UNREACHABLE}"], 4)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["status"], 2, "sweeper optimize"),
        (["status", "--storage", "sqlite:///nowhere/x.db"], 2, "nowhere/x.db"),
        (["sync"], 1, "journal"),
        (["sync", "elsewhere"], 1, "elsewhere"),
        (["optimize", *SAMPLE, *UNTRACKED, "--storage", "sqlite:///nowhere/x.db"], 1, "nowhere/x.db"),
        (["train", *SAMPLE, "--tracking-uri", "sqlite:///nowhere/x.db"], 1, "nowhere/x.db"),
    ],
    ids=spelled,
)
def test_what_is_not_there_is_named(refused: Callable[..., str], argv: list[str], code: int, words: str):
    assert words in refused(argv, code)


@pytest.mark.parametrize("uri", ["offline", "none"])
def test_a_journal_cannot_be_carried_nowhere(refused: Callable[..., str], home: Path, uri: str):
    (home / "journal").mkdir()
    assert uri in refused(["sync", "--tracking-uri", uri], 2)


def test_a_home_that_is_no_folder_is_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWEEPER_HOME", "nowhere")
    assert "SWEEPER_HOME nowhere" in refused(["train", *SAMPLE], 1)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, home: Path):
    monkeypatch.setattr(sys, "argv", ["sweeper", "--debug", "status"])
    with pytest.raises(UsageError):
        main()


def test_an_error_nobody_foresaw_is_one_line_as_well(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    def breaks(*_: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("sweeper.study.read_study", breaks)
    assert "RuntimeError: two lines (sweeper --debug" in refused(["status"], 1)


# --- a study that is there already ---------------------------------------------------------------------


@pytest.fixture
def copied(finished_sweep: Any, home: Path) -> Path:
    """The finished sweep as the working directory."""
    shutil.copytree(finished_sweep.home, home, dirs_exist_ok=True)
    return home


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["--epochs", "3"], "epochs was 2, is 3"),
        (["--seed", "1"], "seed was 0, is 1"),
        (["--model", "medium"], "model was 'small', is 'medium'"),
        (["--sampler", "random"], "sampler was 'tpe', is 'random'"),
        (["--pruner", "none"], "pruner was 'percentile', is 'none'"),
        (["--folds", "2"], "folds was 0, is 2"),
        (["--space", "space.yaml"], "is ['none', 'bn']"),
    ],
    ids=spelled,
)
def test_other_settings_for_a_study_are_refused_and_named(
    refused: Callable[..., str], finished_sweep: Any, copied: Path, other: list[str], difference: str
):
    (copied / "space.yaml").write_text("placement: [none, bn]")
    message = refused([*finished_sweep.argv, *other], 2)
    assert difference in message
    assert "--study" in message


def test_the_same_settings_with_another_number_of_workers_or_trials_are_no_conflict(
    sweeper: Callable[..., Answer], finished_sweep: Any, copied: Path
):
    changed = ("--trials", "4", "--workers", "2", "--no-final", "--tracking-uri", "offline", "--json")
    answer = sweeper(*finished_sweep.argv, *changed)
    assert answer.code == 0
    assert "continuing, 6 trials are finished" in answer.err
    assert json.loads(answer.out)["added"] == 0


def test_status_shows_a_sweep_from_another_terminal(sweeper: Callable[..., Answer], copied: Path):
    lines = sweeper("status").out.splitlines()
    assert lines[0] == "study sweep: 6/6 trials finished, 6 complete, 0 pruned, 0 failed, 0 running"
    assert lines[1] == "best so far:"
    assert len(lines) == 2 + 5


def test_status_refuses_a_study_that_is_not_there_and_names_those_that_are(refused: Callable[..., str], copied: Path):
    message = refused(["status", "sweeep"], 2)
    assert "sweeep" in message
    assert "holds: sweep" in message


# --- output --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "keys"),
    [
        (["status", "--json"], {"study", "target", "trials"}),
        (["sync", "--json"], {"carried"}),
    ],
    ids=spelled,
)
# MLflow's own use of SQLAlchemy 2.1
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
def test_json_is_one_object_and_nothing_else_on_stdout(
    sweeper: Callable[..., Answer], copied: Path, argv: list[str], keys: set[str]
):
    answer = sweeper(*argv)
    assert answer.code == 0
    (line,) = answer.out.splitlines()
    assert set(json.loads(line)) == keys


def test_json_of_a_whole_sweep_is_one_line_and_the_words_go_to_stderr(finished_sweep: Any):
    assert len(finished_sweep.stdout.splitlines()) == 1
    keys = {"study", "finished", "complete", "pruned", "failed", "best", "journal", "test", "added"}
    assert set(finished_sweep.result) == keys
    assert (finished_sweep.result["finished"], finished_sweep.result["added"]) == (6, 6)
    assert "trial 5: complete" in finished_sweep.stderr
    assert "MLflow database:" in finished_sweep.stderr
    assert "evaluated once" in finished_sweep.stderr


PROBE = """
import atexit, sys
atexit.register(lambda: print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
from sweeper.cli import main
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
        (("--help",), 0),
        (("optimize", "--help"), 0),
        (("--version",), 0),
        (("trian",), 2),
        (("train", "--exp", "9"), 2),
        (("train", "--batch-size", "1"), 2),
        (("optimize", "--study", "../x"), 2),
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
    argv = ("train", "--exp", "1", "--epochs", "1", *SAMPLE, "--tracking-uri", "offline")
    return Offline(home, *probe(argv, home, alone | {"PYTHONIOENCODING": "ascii"}))


def test_an_offline_training_imports_no_mlflow(offline: Offline):
    assert "torch" in offline.imported
    assert "mlflow" not in offline.imported
    assert "ray" not in offline.imported


def test_an_offline_training_leaves_a_journal_and_no_database(offline: Offline):
    assert [path.name for path in offline.home.iterdir()] == ["journal"]
    (run,) = (offline.home / "journal/runs").iterdir()
    assert (run / "artifacts/curves/history.csv").is_file()


def test_a_stdout_that_knows_ascii_only_is_enough(offline: Offline):
    assert offline.done.returncode == 0, offline.done.stderr
    assert "epoch 1/1  val accuracy" in offline.done.stdout
    assert offline.done.stdout.isascii()


@pytest.mark.parametrize("command", [None, *cli.commands])
def test_help_is_ascii(sweeper: Callable[..., Answer], command: str | None):
    answer = sweeper(*([command] if command else []), "--help")
    assert answer.code == 0
    assert answer.out.startswith("Usage: ")
    assert answer.out.isascii()


@pytest.mark.parametrize("argv", [("--help",), ("status",)], ids=spelled)
def test_a_reader_who_has_had_enough_is_no_error(finished_sweep: Any, alone: dict[str, str], argv: tuple[str, ...]):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -1` does, but before the first line and not, by chance, after the last
    command = [sys.executable, "-m", "sweeper", *argv]
    try:
        done = subprocess.run(
            command, cwd=finished_sweep.home, env=alone, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_training_without_tracking_records_nothing(sweeper: Callable[..., Answer], home: Path):
    answer = sweeper(
        "train", "--exp", "1", "--epochs", "1", *SAMPLE, "--batch-size", "512", "--head-dropout", "0.5",
        "--tracking-uri", "none", "--json",
    )  # fmt: skip
    assert answer.code == 0
    assert listing(home) == {}
    assert "warning: head_dropout=0.5 has no effect: placement none has no Dropout there" in answer.err
    assert "nothing was recorded" in answer.err
    result = json.loads(answer.out)
    assert result["run_id"] is result["journal"] is None
    assert result["config"]["batch_size"] == 512


def test_a_training_that_diverges_is_one_line_and_exit_code_1(sweeper: Callable[..., Answer], home: Path):
    answer = sweeper("train", "--exp", "1", "--epochs", "1", *SAMPLE, "--lr", "1e4", "--tracking-uri", "none")
    assert answer.code == 1
    assert "lower lr" in answer.err
    assert len(answer.err.splitlines()) == 1
