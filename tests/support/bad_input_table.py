"""Bad input: the command, its exit code, and words of its one line on stderr. Data only; test_bad_input.py runs it.

The preparation that a row names in `given` makes `{data}`, `{space}`, `{postgres}` and the like in its command.
`docs/explanation/reliability.md` shows the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from tests.support.bad_input_files import KNOWN_FILES, SPACE
from tests.support.bad_input_row import SAMPLE, Row, on_sample, values, words

UNREACHABLE: Final = "127.0.0.1:1"  # nothing listens on port 1
CANARY: Final = "s3cret-canary"  # a password that no message may show
EIGHT: Final = (
    "small CNN, plain", "medium CNN, plain", "medium CNN, augmentation", "medium CNN, BatchNorm", "medium CNN, Dropout",
    "medium CNN, BatchNorm and Dropout", "medium CNN, BatchNorm, Dropout and augmentation",
    "large CNN, BatchNorm, Dropout and augmentation",
)  # fmt: skip


def rates(option: str) -> Iterator[Row]:
    """Bad dropout rates."""
    yield from values("train", option, "dropout rate", "-0.1", "1.0", "1.1", says=("0<=x<1",))
    yield from values("train", option, "dropout rate", "nan", "inf", "x")


def of_runs(command: str) -> Iterator[Row]:
    """Input that `train` and `optimize` both refuse."""
    yield from values(command, "--exp", "experiment", "0", "9", "abc", "", says=EIGHT)
    yield from values(command, "--epochs", "epochs", "0", "-1", says=(">=1",))
    yield from values(command, "--epochs", "epochs", "1.5", "x", "10001")
    yield from values(command, "--seed", "seed", "-1", "x", "2147483648")
    yield from of_all(command)


def of_all(command: str) -> Iterator[Row]:
    """Input that every training command refuses."""
    yield from values(command, "--precision", "precision", "fp16", says=("bf16",))
    yield from values(command, "--device", "device", "foo", "", "meta", says=("cpu",))
    yield from values(command, "--device", "missing device", "cuda:9", says=("cuda:9",))
    yield from values(command, "--tracking-uri", "tracking URI", "", "mlruns", "ftp://host/x", "file:///tmp/mlruns", "://",
                      "sqlite://", "sqlite:///", "sqlite:mlflow.db", "sqlite:///:memory:",
                      says=("http://HOST:PORT", "offline"))  # fmt: skip
    yield from values(command, "--dataset", "data set", "cifar", says=("sample",))


def engines(command: str) -> Iterator[Row]:
    """Input that both commands for many configurations refuse."""
    yield from values(command, "--workers", "workers", "0", "-1", "1.5", "1000000")
    yield from values(command, "--engine", "engine", "dask", says=("gpu",))
    yield from values(command, "--engine", "GPU engine on a CPU", "gpu", says=("--engine processes",),
                      more="--device cpu")  # fmt: skip
    yield from values(command, "--cpus-per-trial", "CPUs per trial", "0", "-1", "nan", "x", more="--engine ray")
    yield from values(command, "--gpus-per-trial", "GPUs per trial", "-1", "inf", "x", more="--engine ray")
    yield from values(command, "--address", "Ray option without --engine ray", "auto", says=("--engine ray",))
    yield from values(command, "--workers", "workers with engine serial", "2", says=("processes",),
                      more="--engine serial")  # fmt: skip


TRAIN: Final = (
    *of_runs("train"),
    *values("train", "--batch-size", "batch size", "0", "-1", says=(">=1",)),
    *values("train", "--batch-size", "batch size", "1.5", "a"),
    *values("train", "--batch-size", "batch size above the limit", "1000000001", says=("1000000000",)),
    *values("train", "--batch-size", "batch size above the training set", "7001", says=("7000 training images",),
            more="--exp 1"),
    *values("train", "--batch-size", "batch size above the training set", "6001", says=("6000 training images",),
            more="--exp 1 --split holdout"),
    *values("train", "--batch-size", "batch size 1 with BatchNorm", "1", says=("batch_size=1", "BatchNorm")),
    *itertools.chain(*(rates(f"--{part}-dropout") for part in ("conv", "head"))),
    *values("train", "--conv-dropout", "rate that the placement does not use", "0.3", more="--exp 1",
            says=("placement none has no Dropout in its convolutions", "leave --conv-dropout out")),
    *values("train", "--head-dropout", "rate that the placement does not use", "0.3", more="--placement bn",
            says=("placement bn has no Dropout in its head", "leave --head-dropout out")),
    *values("train", "--lr", "learning rate", "0", "-1", says=("x>0",)),
    *values("train", "--lr", "learning rate", "nan", "inf", "x"),
    *values("train", "--placement", "placement", "foo", says=("bn-head-dropout",)),
    *values("train", "--placement", "placement for residual blocks in a plain network", "bn-dropout-last",
            "bn-dropout-add", "bn-pool-dropout", says=("model medium has no residual blocks",)),
    *values("train", "--placement", "placement", "own", says=("bn-head-dropout",)),
    *values("train", "--split", "split", "folds", says=("holdout",)),
    Row("split with folds", on_sample("train --folds 3 --split holdout"), 2,
        ("--split cannot be combined with --folds",)),
    *values("train", "--schedule", "schedule", "linear", says=("cosine",)),
    *values("train", "--weight-decay", "weight decay", "-1", "nan", "x"),
    *values("train", "--train-images", "training images", "0", "x"),
    Row("network: no such file or module", on_sample("train --model none.py:build"), 2, ("none.py: no such file",)),
    *values("train", "--model", "network: no such file or module", "nowhere:build", says=("no module 'nowhere'",)),
    *values("train", "--model-arg", "network: argument", "width", "2=3", "=3", says=("NAME=VALUE",)),
    *values("train", "--model-arg", "network: argument of a built-in one", "width=3", says=("takes no arguments",)),
    *values("train", "--dropout-switch", "Dropout schedule", "3", says=("--dropout-schedule early and late",)),
    *values("train", "--dropout-switch", "Dropout schedule", "0", "x"),
    *values("train", "--dropout-schedule", "Dropout schedule", "sometimes", says=("early",)),
    *values("train", "--dropout-schedule", "Dropout schedule of a network without Dropout", "early",
            says=("placement none has no Dropout",), more="--exp 1 --dropout-switch 3"),
)  # fmt: skip

NAMES: Final = (
    "", "x" * 101, "../x", "..", ".x", "a b", "a/b", "a\nb", "a\x00b", "\x1b[31m", "<b>bold</b>", "ü",
)  # fmt: skip

OPTIMIZE: Final = (
    *of_runs("optimize"),
    *values("optimize", "--trials", "trials", "0", "-1", "abc", "1e3", "1000000000000", "2.5", ""),
    *engines("optimize"),
    *values("optimize", "--folds", "folds", "1", says=("2 or more",)),
    *values("optimize", "--folds", "folds", "-1", "101", "7001", says=("100",)),
    *values("optimize", "--study", "study name", *NAMES, says=("1 to 100 letters",)),
    *values("optimize", "--study", "reserved study name", "reproduce", "reproduce-quick", "runs",
            says=("Choose another",)),
    *values("optimize", "--storage", "storage URL", "", "foo", "://", says=("sqlite:///",)),
    *values("optimize", "--storage", "storage URL", "mysql://h/d", says=("postgresql://",)),
    *values("optimize", "--metric", "metric", "accuracy", says=("val/accuracy", "val/loss", "val/ece")),
    *values("optimize", "--sampler", "sampler", "foo", says=("tpe",)),
    *values("optimize", "--pruner", "pruner", "foo", says=("median",)),
    *values("optimize", "--model", "model", "huge", says=("large",)),
    *values("optimize", "--augmentation", "augmentation", "mixup", says=("crop-flip",)),
    Row("system metrics of another machine", on_sample("optimize --engine ray --system-metrics"), 2,
        ("--system-metrics measures this machine",)),
    *values("optimize", "--vary", "dimension of the search space", "lr", "lr=", says=("NAME=VALUES",)),
    *(
        Row("dimension of the search space", on_sample(f"optimize --vary {given}"), 2, (says,))
        for given, says in {
            "epochs=1,2": "unknown field 'epochs'", "placement=bn,nowhere": "nowhere", "lr=2..1": "low is above high",
            "lr=1e-4..1e-2 --lr 1e-3": "--lr fixes a value that --vary varies", "lr=1 --vary lr=2": "given twice",
        }.items()
    ),
    Row("nothing left to vary", on_sample("optimize --placement bn --batch-size 64"), 2, ("nothing is left to vary",)),
    *values("optimize", "--timeout", "timeout", "0", "-1", "x"),
)  # fmt: skip

REPRODUCE: Final = (
    *of_all("reproduce"),
    *values("reproduce", "--exp", "experiments", "0", "9", "1,9", "abc", "", "8-6", "1,,2", "1-999999999",
            says=(*EIGHT, "6-8")),
    *values("reproduce", "--seeds", "seeds", "0", "-1", "1.5", "x", "1001"),
    *values("reproduce", "--protocol", "protocol", "slow", says=("quick",)),
    *values("reproduce", "--arms", "arms", "some", says=("experiments",)),
    *values("reproduce", "--tracking-uri", "recording off", "none", says=("offline",)),
    *engines("reproduce"),
    *values("reproduce", "--article", "article", "kim", says=("kim2023",)),
    Row("experiments of another article", on_sample("reproduce --article kim2023 --exp 1"), 2,
        ("--exp", "learnopencv")),
    Row("no claims file", on_sample("reproduce --claims nowhere.yaml"), 2, ("nowhere.yaml", "No such file")),
    Row("a file that is no claims file", on_sample("reproduce --claims {space}"), 2,
        ("{space}", "name: field required"), given="space", kind="placement: [none, bn]"),
    Row("no recording", words("reproduce --import nowhere.tar.gz"), 1, ("nowhere.tar.gz", "No such file")),
    Row("a file that is no recording", words("reproduce --import {file}"), 1, ("{file}", "not a whole recording"),
        given="file"),
    Row("nothing to export", words("reproduce --export all.tar.gz"), 1, ("holds no finished run",)),
    Row("two commands in one", words("reproduce --export a --import b"), 2, ("two commands",)),
)  # fmt: skip

VERIFY: Final = (
    *(Row("budget", ("verify", "--train", "--budget", value), 2, (value, "30m")) for value in ("soon", "-1")),
    Row("both --train and --plan", ("verify", "--train", "--plan"), 2, ("--plan and --train cannot be combined",)),
    *(Row("option of --train without --train", ("verify", option, value), 2, (option, "--train"))
      for option, value in (("--budget", "30m"), ("--workers", "2"), ("--data-dir", "."))),
    Row("no claims file", words("verify --claims nowhere.yaml"), 2, ("nowhere.yaml", "No such file")),
    Row("a file that is no claims file", words("verify --claims {space}"), 2, ("{space}", "name: field required"),
        given="space", kind="placement: [none, bn]"),
    Row("two articles", words("verify --article kim2023 --claims nowhere.yaml"), 2, ("--article", "--claims")),
)  # fmt: skip

REPORT: Final = (
    *(Row("option of --replication for a sweep", words(f"report {named} {option} {value}"), 2,
          (option, "report --replication"), given="study")
      for named, option, value in (("", "--protocol", "quick"), ("sweep", "--protocol", "full"),
                                   ("sweep", "--tracking-uri", "offline"), ("sweep", "--experiment-name", "a"))),
    Row("option of a sweep with --replication", words("report --replication --storage sqlite:///sweeper.db"), 2,
        ("--storage", "the report of a sweep")),
    Row("a sweep with --replication", words("report sweep --replication"), 2, ("'sweep'",), given="study"),
    Row("no such study", words("report nope"), 2, ("holds: sweep",), given="study"),
    Row("report that cannot be written", words("report --output journal"), 2, ("journal",), given="journal"),
    Row("report that cannot be written", words("report --output sweeper.db/a.html"), 1, ("a.html",), given="study"),
    Row("nothing recorded yet", words("report --replication --protocol full"), 2,
        ("sweeper reproduce --protocol full",)),
)  # fmt: skip

WORDS: Final = (
    Row("unknown command", ("trian",), 2, ("did you mean 'train'?",), process=True),
    Row("unknown command", ("frobnicate",), 2, ("the commands are ",)),
    Row("unknown option", ("train", "--epoch", "1"), 2, ("'--epochs'",)),
    Row("unknown option", ("optimize", "--trails", "3"), 2, ("'--trials'",)),
    Row("unknown option", ("optimize", "--final=no"), 2, ("--final",)),
    Row("unknown option", ("--frobnicate",), 2, ("'--frobnicate'",)),
    Row("one argument too many", ("status", "a", "b"), 2, ("unexpected extra argument (b)",)),
)

FROM_STUDY: Final = (
    Row("known configurations: no such study", on_sample("optimize --study b --from nope"), 2, ("holds: sweep",),
        given="study"),
    Row("known configurations: no complete trial", on_sample("optimize --study b --from sweep"), 2,
        ("no trial is complete",), given="study"),
    Row("known configurations: no database", on_sample("optimize --from a@sqlite:///nowhere.db"), 2, ("nowhere.db",)),
    Row("known configurations: not a database URL", on_sample("optimize --from a@b"), 2, ("sqlite:///FILE",)),
    Row("known configurations: a study whose database does not answer",
        on_sample(f"optimize --from a@postgresql://user:{CANARY}@{UNREACHABLE}/study"), 4, ("127.0.0.1",)),
    *values("optimize", "--top", "known configurations: --top", "0", "101", "x", more="--from sweep"),
    Row("known configurations: --top without --from", on_sample("optimize --top 3"), 2, ("--from STUDY",)),
)  # fmt: skip

OTHER: Final[dict[tuple[str, ...], str]] = {
    ("--epochs", "3"): "epochs was 2, is 3",
    ("--seed", "1"): "seed was 0, is 1",
    ("--model", "medium"): "model was 'small', is 'medium'",
    ("--metric", "val/loss"): "direction was 'maximize val/accuracy', is 'minimize val/loss'",
    ("--sampler", "random"): "sampler was 'tpe', is 'random'",
    ("--pruner", "none"): "pruner was 'percentile', is 'none'",
    ("--folds", "2"): "folds was 0, is 2",
    ("--space", "{space}"): "is ['none', 'bn']",
}

STUDY: Final = (
    *(
        Row(f"other {option[0].removeprefix('--')} for an existing study",
            on_sample("optimize --exp 1 --epochs 2", *option), 2, (says, "--study"), given="study",
            kind="placement: [none, bn]")
        for option, says in OTHER.items()
    ),
    Row("other data set for an existing study", words("optimize --data-dir {full} --exp 1 --epochs 2"), 2,
        ("dataset was 'sample', is 'fashion-mnist'",), given="study_and_full_data"),
    Row("study of another program", on_sample("optimize --study minimal"), 2, ("not created by sweeper",),
        given="foreign_study"),
    Row("no such study", words("status sweeep"), 2, ("sweeep", "holds: sweep"), given="study"),
    *(
        Row("database of another program", words(f"{command} --storage sqlite:///mlflow.db"), 2,
            ("another program", "sqlite:///mlflow.db"), given="deleted_experiment")
        for command in ("status", "report", "optimize --dataset sample --tracking-uri none")
    ),
    Row("empty database", words("status --storage sqlite:///empty.db"), 2, ("empty.db", "is empty"),
        given="empty_database"),
    Row("empty database", words("report --storage {empty_postgres}"), 2, ("is empty",),
        given="empty_postgres"),
    Row("nothing recorded yet", words("status"), 2, ("sweeper optimize",)),
    Row("nothing recorded yet", words("status --storage sqlite:///nowhere/x.db"), 2, ("nowhere/x.db",)),
    Row("no journal", words("sync"), 1, ("journal",)),
    Row("no journal", words("sync elsewhere"), 1, ("elsewhere",)),
    Row("no such run", words("replay nowhere"), 2, ("nowhere",)),
    Row("no such run", words("replay nowhere --tracking-uri offline"), 2, ("nowhere",)),
    Row("no such run", words("replay", "x" * 300), 2, ("x" * 60, "is not a journal folder")),
    Row("no such run", words("replay ."), 2, ("contains no run",)),
    Row("no such run", words("replay 0123456789abcdef0123456789abcdef --tracking-uri sqlite:///nowhere/x.db"), 1,
        ("nowhere/x.db",)),
    Row("no such run", words("xray nowhere"), 2, ("nowhere",)),
    Row("no such run", words("xray nowhere --tracking-uri offline"), 2, ("nowhere",)),
    Row("no such run", words("xray ."), 2, ("contains no run",)),
    Row("upload without a store", words("sync --tracking-uri offline"), 2, ("offline",), given="journal"),
    Row("upload without a store", words("sync --tracking-uri none"), 2, ("none",), given="journal"),
)  # fmt: skip

IMAGES: Final = {
    "missing": "not a folder",
    "a file": "not a folder",
    "empty": "lacks train-images",
    "gzip, truncated": "cannot be read",
    "gzip, bad CRC": "incorrect data check",
    "gzip in name only": "incorrect header check",
    "gzip bomb": "trailing data after the gzip stream",
    "wrong magic": "its header is not that of",
    "wrong count": "its header is not that of",
    "truncated": "decompressed bytes",
    "other images": "its SHA-256 is wrong",
}

DATA: Final = (
    *(
        Row(f"data: {what}", words(f"{command} --data-dir {{data}} --tracking-uri offline"), 1, ("{data}", says),
            given="data", kind=what, process=(what, command) == ("gzip bomb", "train"))
        for what, says in IMAGES.items() for command in ("train", "optimize", "reproduce")
    ),
    Row("data: label out of range", words("train --data-dir {data} --tracking-uri none"), 1, ("its SHA-256 is wrong",),
        given="data", kind="labels", slow=True),
)  # fmt: skip

PLACES: Final = (
    Row("home is not a folder", on_sample("train"), 1, ("SWEEPER_HOME nowhere",), given="no_home"),
    Row("home is not a folder", words("backup all.tar"), 1, ("SWEEPER_HOME nowhere",), given="no_home"),
    *(
        Row("home is not a folder", words(f"{command} --home nowhere/new"), 1, ("--home nowhere/new",))
        for command in ("serve", "serve --check", "backup all.tar", "restore all.tar")
    ),
    Row("home is not a folder", words("ui --home nowhere/new"), 1, ("--home nowhere/new",)),
    Row("nothing to show", words("ui"), 2, ("mlflow.db", "sweeper train or optimize")),
    Row("nothing to show", words("ui --tracking-uri offline"), 2, ("offline",)),
    Row("no backup", words("restore all.tar --home new"), 1, ("all.tar: no such file",)),
    Row("exposed server without passwords", words("serve --home new --host 0.0.0.0"), 2, ("--auth",)),
    Row("read-only home", on_sample("train"), 1, ("cannot be written",), given="read_only"),
    Row("read-only home", on_sample("train --tracking-uri offline"), 1, ("Read-only file system",), given="read_only"),
    Row("read-only home", on_sample("optimize --tracking-uri none"), 1, ("Read-only file system",), given="read_only"),
    Row("full disk", on_sample("train --tracking-uri offline"), 1, ("No space left",), given="full_disk",
        leaves_empty=True),
    Row("full disk", on_sample("optimize --tracking-uri none"), 1, ("No space left",), given="full_disk",
        leaves_empty=True),
    Row("no folder for the database", on_sample("optimize --tracking-uri none --storage sqlite:///nowhere/x.db"), 1,
        ("nowhere/x.db",)),
    Row("no folder for the database", on_sample("train --tracking-uri sqlite:///nowhere/x.db"), 1, ("nowhere/x.db",)),
    Row("not a database file", words("status --storage sqlite:///{file}"), 1, ("not a database",), given="file"),
    Row("not a database file", on_sample("optimize --tracking-uri none --storage sqlite:///{file}"), 1,
        ("not a database",), given="file"),
    Row("not a database file", on_sample("train --tracking-uri sqlite:///{file}"), 1, ("not a database",),
        given="file"),
    Row("stdout is full", words("--help"), 1, ("No space left",), given="full_stdout", process=True),
    Row("stdout is full", words("status --json"), 1, ("No space left",), given="study_and_full_stdout", process=True),
    Row("stdout is full", on_sample("train --tracking-uri none"), 1, ("<stdout>: No space left",), given="full_stdout",
        process=True),
)  # fmt: skip

AT_PORT_1: Final = f"user:{CANARY}@{UNREACHABLE}"
AT_SILENT: Final = f"user:{CANARY}@{{silent}}"
WRONG_PASSWORD: Final = ("password authentication failed",)
RESTORE: Final = ("was deleted", "experiments restore --experiment-id 0")
STORES: Final = (
    *(
        Row("no such MLflow experiment", words(command), 2, ("with the id 77", "MLFLOW_EXPERIMENT_ID"),
            given="variable", kind="MLFLOW_EXPERIMENT_ID=77")
        for command in ("train --dataset sample", "optimize --dataset sample")
    ),
    Row("name of the MLflow experiment", on_sample("train --experiment-name", ""), 2, ("Name an MLflow experiment",)),
    *(
        Row("deleted MLflow experiment", on_sample(command), 1, RESTORE, given="deleted_experiment")
        for command in ("train", "optimize", "reproduce")
    ),
    Row("deleted MLflow experiment", words("sync"), 1, RESTORE, given="deleted_experiment"),
    Row("deleted MLflow experiment", on_sample("train --tracking-uri http://{server}"), 1, RESTORE,
        given="server", kind="deleted"),
    Row("database of another program", on_sample("train --tracking-uri sqlite:///sweeper.db"), 2,
        ("another program", "sqlite:///sweeper.db"), given="study"),
    Row("damaged database", on_sample("train --tracking-uri sqlite:///{file}"), 1, ("{file}", "cannot be read"),
        given="damaged_database"),
    Row("server of another program", on_sample("train --tracking-uri http://{server}"), 4, ("is not an MLflow server",),
        given="server", kind="else"),
)  # fmt: skip

SERVICES: Final = (
    Row("no tracking server", on_sample(f"train --tracking-uri http://{AT_PORT_1}"), 4, (UNREACHABLE,), process=True),
    Row("no tracking server", words(f"sync --tracking-uri http://{AT_PORT_1}"), 4, (UNREACHABLE,), given="journal"),
    Row("no tracking server", words(f"replay 0123456789 --tracking-uri http://{AT_PORT_1}"), 4, (UNREACHABLE,)),
    Row("silent tracking server", on_sample(f"train --tracking-uri http://{AT_SILENT}"), 4, ("{silent}",),
        given="silent", slow=True),
    *(
        Row("Ray Client address",
            on_sample(f"{command} --engine ray --address ray://127.0.0.1:10001 --tracking-uri offline"), 2,
            ("ray job submit",), given="ray")
        for command in ("optimize", "reproduce")
    ),
    *(
        Row("no Ray cluster", on_sample(f"{command} --engine ray --address {UNREACHABLE} --tracking-uri offline"), 4,
            (UNREACHABLE,), given="ray")
        for command in ("optimize", "reproduce")
    ),
    Row("no tracking database", on_sample(f"optimize --tracking-uri postgresql://{AT_PORT_1}/mlflow"), 4,
        (UNREACHABLE,)),
    Row("no database", on_sample(f"optimize --storage postgresql://{AT_PORT_1}/study"), 4, (UNREACHABLE,)),
    Row("no database", on_sample(f"optimize --storage postgres://{AT_PORT_1}/study"), 4, (UNREACHABLE,)),
    Row("no database", words(f"status --storage postgresql://{AT_PORT_1}/study"), 4, (UNREACHABLE,)),
    Row("silent database", words(f"status --storage postgresql://{AT_SILENT}/study"), 4, ("timeout",), given="silent",
        slow=True),
    Row("wrong password", words("status --storage {postgres}"), 4, WRONG_PASSWORD, given="postgres"),
    Row("wrong password", on_sample("optimize --storage {postgres}"), 4, WRONG_PASSWORD, given="postgres"),
    Row("wrong password", on_sample("train --tracking-uri {postgres}"), 4, WRONG_PASSWORD, given="postgres"),
    *(
        Row("wrong password", on_sample(f"{command} --tracking-uri http://user:{CANARY}@{{server}}"), 4,
            ("MLFLOW_TRACKING_PASSWORD",), given="server", kind="401")
        for command in ("train", "optimize", "reproduce")
    ),
)  # fmt: skip

IN_QUERY: Final = f"postgresql://{UNREACHABLE}/study?user=user&password={CANARY}"
QUERIES: Final = (
    *(
        Row("password after the ? of a database URL", words(f"{command} {IN_QUERY}"), 2,
            ("?password=***", "~/.pgpass"), given=given, leaves_empty=bool(given))
        for command, given in {
            "optimize --dataset sample --storage": "", "status --storage": "", "report --storage": "",
            "train --dataset sample --tracking-uri": "", "reproduce --dataset sample --tracking-uri": "",
            "verify --tracking-uri": "", "sync --tracking-uri": "journal",
            "replay 0123456789 --tracking-uri": "", "serve --no-dashboard --database-url": "",
            "serve --check --database-url": "", "backup new.tar --database-url": "log",
            "restore {backup} --database-url": "backup",
        }.items()
    ),
    *(
        Row("password after the ? of a database URL", words(command), 2, ("?password=***", "~/.pgpass"),
            given="variable", kind=f"{name}={IN_QUERY}")
        for command, name in (
            ("status", "SWEEPER_STORAGE"), ("train --dataset sample", "MLFLOW_TRACKING_URI"),
            ("serve --no-dashboard", "SWEEPER_DATABASE_URL"),
        )
    ),
    Row("password after the ? of a database URL",
        words(f"status --storage postgres://{AT_PORT_1}/study?sslmode=require&sslpassword={CANARY}"), 2,
        ("user:***@", "?sslpassword=***", "~/.pg_service.conf")),
)  # fmt: skip

ROWS: Final = (
    *TRAIN, *OPTIMIZE, *REPRODUCE, *VERIFY, *REPORT, *WORDS, *SPACE, *KNOWN_FILES, *FROM_STUDY, *STUDY, *DATA, *PLACES,
    *STORES, *SERVICES, *QUERIES,
)  # fmt: skip


def as_markdown() -> str:
    """Return the table: one line per error and exit code, with its first row as the example."""
    kinds: dict[tuple[int, str], list[Row]] = {}
    for row in ROWS:
        kinds.setdefault((-row.code, row.what), []).append(row)
    lines = ["| what is wrong | exit code | rows | example | message |", "|---|---|---|---|---|"]
    for (code, what), rows in sorted(kinds.items(), key=lambda item: item[0][0] != -2):
        cells = [what, str(-code), str(len(rows)), f"`{_example(rows[0])}`", rows[0].says[-1]]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def _example(row: Row) -> str:
    """Return the command of a row, or the start of its search space."""
    if row.given in ("space", "known"):
        return " ".join(row.kind[:60].split()).replace("\0", "\\0") or "(nothing)"
    argv = row.argv[:1] + row.argv[3:] if row.argv[1:3] == SAMPLE else row.argv
    return " ".join(["sweeper", *(repr(word)[1:-1] or "''" for word in argv)])
