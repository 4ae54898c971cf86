"""The `sweeper` command with stubs for training and figures, and with faults that strike at an event, never at a time.

    FAULTS='{…}' python -m tests.faults.tools.launch optimize --trials 6 …

FAULTS is a JSON object; everything in it may be left out:

    marks      a folder in which all processes of the command count the events together
    strikes    a list of {at, nth, signal, whom}: when event `at` happens for the nth time, counted from 1, the process
               in which it happens sends that signal to itself, its parent, or its group (whom: self, parent, group)
    gate       {at, file, beyond}: the process waits in event `at` until `file` exists, once it happened `beyond` times
    outcomes   {n: nan | runaway | memory | exit | fails | wrong}: how the nth training to begin ends, without a result
    pace       seconds that an epoch takes; 0
    weights    bytes of the weights; 1,000

An event is a call of a function of the driver or of the stub, at its beginning or after it. `marks/EVENT` has a byte
for each time it happened. The events:

    asked      a trial was asked for, and nothing is done with it yet
    begun      a trial is in the study, and nothing of it in the journal
    submitted  a worker was given a trial
    training   a worker is in the middle of a training
    reporting  an epoch has arrived in the driver, and is recorded nowhere
    over       a trial has ended, and its outcome is recorded nowhere
    telling    a trial's outcome is in the journal, and about to be in the study
    appending  half a line of the journal is written
    renaming   a file is written aside, and not in its place yet
    uploading  MLflow is about to be sent a batch
    noting     MLflow has acknowledged a batch, and no note of it is written
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import sweeper.training.failures
import sweeper.training.start
from sweeper.core.config import RunConfig
from sweeper.core.results import EpochResult, Evaluation, Training, TrainResult
from sweeper.data.fashion import CLASSES
from sweeper.training.images import Data

FAULTS: dict[str, Any] = json.loads(os.environ.get("FAULTS", "{}"))


def count(mark: str) -> int:
    """Count one more `mark`, among all processes of the command, and return its number."""
    stream = os.open(f"{FAULTS['marks']}/{mark}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(stream, b".")  # the offset after an append is the number of this mark, whichever process wrote it
    nth = os.lseek(stream, 0, os.SEEK_CUR)
    os.close(stream)
    return nth


def happened(event: str) -> None:
    """Count the event, strike if it is time to, and wait at a gate that is shut."""
    if "marks" not in FAULTS:
        return
    nth = count(event)
    for strike in FAULTS.get("strikes", []):
        if (strike["at"], strike["nth"]) == (event, nth):
            pathlib.Path(FAULTS["marks"], "struck").touch()
            send = {"self": os.getpid(), "parent": os.getppid(), "group": 0}
            os.kill(send[strike.get("whom", "self")], signal.Signals[strike["signal"]])
    gate = FAULTS.get("gate", {})
    shut = gate.get("at") == event and nth > gate.get("beyond", 0)
    while shut and not os.path.exists(gate["file"]):  # noqa: PTH110 - Path is patched
        time.sleep(0.01)


def before(owner: Any, name: str, event: str, only: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Let `event` happen when the function `owner.name` is called, with arguments that `only` takes."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if only(*args, **kwargs):
            happened(event)
        return inner(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, event: str) -> None:
    """Let `event` happen when the function `owner.name` has returned."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        happened(event)
        return result

    setattr(owner, name, wrapped)


# --- training ------------------------------------------------------------------------------------------


def train(config: RunConfig, data: Data) -> Training:
    """Yield what a training would, made up from the configuration: the same for the same, and in no time."""
    numbers = random.Random(config.key)
    ceiling = numbers.uniform(0.6, 0.9)
    outcome = next_outcome()
    history = []
    for epoch in range(1, config.epochs + 1):
        time.sleep(FAULTS.get("pace", 0))
        happened("training")
        come_to(outcome, config)
        accuracy = ceiling * (1 - numbers.uniform(0.4, 0.6) ** epoch)
        loss = 2.3 * (1 - accuracy)
        history.append(EpochResult(epoch, loss, accuracy, loss, accuracy, 0.1, config.lr, 1.0, 0.001, 6e6))
        yield history[-1]
    evaluation = Evaluation(loss, accuracy, 0.1, np.eye(10, dtype=np.int64), classes=CLASSES)
    weights = torch.full((FAULTS.get("weights", 1_000),), config.seed % 256, dtype=torch.uint8)
    return TrainResult(tuple(history), {"weights": weights}, evaluation)


def next_outcome() -> str | None:
    """Return how the training that begins now shall end."""
    return FAULTS["outcomes"].get(str(count("trainings"))) if FAULTS.get("outcomes") else None


def come_to(outcome: str | None, config: RunConfig) -> None:
    """End the training as `outcome` says, by what really raises such an error."""
    match outcome:
        case "nan":
            sweeper.training.failures.check_converging(config, 10, 1, config.lr, float("nan"))
        case "runaway":
            sweeper.training.failures.check_converging(config, 10, 1, config.lr, 1e9)
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        case "exit":
            os._exit(9)
        case "fails":
            raise ValueError("expected more than 1 value per channel when training")
        case "wrong":
            config.derive(batch_size=0)


sweeper.training.start.training = lambda config, data: train(
    config, data[0]
)  # in a worker too: it imports this module first


# --- the driver ----------------------------------------------------------------------------------------


def is_part(path: str | pathlib.Path, *_: Any, **__: Any) -> bool:
    """Whether a file written aside is being renamed."""
    return str(path).endswith(".part")


def is_note(folder: pathlib.Path, name: str, *_: Any) -> bool:
    """Whether it is the uploader's note that is being written."""
    return name == "upload.json"


def is_outcome(storage: Any, trial_id: int, state: Any, values: Any = None) -> bool:
    """Whether a trial is over, and its outcome about to be written to the study."""
    return bool(state.is_finished())


def tear(inner: Callable[[pathlib.Path, bytes], None]) -> Callable[..., None]:
    """`_append_line`, in two halves with an event between them."""

    def append_in_halves(folder: pathlib.Path, line: bytes) -> None:
        path = folder / "events.jsonl"
        with path.open("ab") as stream:
            stream.write(line[: len(line) // 2])
        happened("appending")
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size - len(line) // 2)
        inner(folder, line)

    return append_in_halves


def arm(events: set[str]) -> None:
    """Let the driver's events happen; those that slow it down only if they are asked for."""
    from optuna.storages import RDBStorage

    from sweeper.engine.processes import ProcessEngine
    from sweeper.report.sweep import page
    from sweeper.study.study import Study
    from sweeper.sweep import tracker
    from sweeper.tracking import fetching, journal
    from sweeper.tracking.upload import Figures

    tracker.FIGURES = Figures(lambda *_: b"", lambda *_: b"")
    page.sweep_files = lambda *_: {}
    page.sweep_report = lambda *_: b""
    after(Study, "ask", "asked")
    after(ProcessEngine, "submit", "submitted")
    before(Study, "report", "reporting")
    after(Study, "begin", "begun")
    before(Study, "complete", "over")
    before(Study, "prune", "over")
    before(RDBStorage, "set_trial_state_values", "telling", is_outcome)
    before(os, "replace", "renaming", is_part)
    before(fetching, "write_inside", "noting", is_note)
    if "appending" in events:
        journal._append_line = tear(journal._append_line)
    if "uploading" in events:
        from mlflow import MlflowClient

        before(MlflowClient, "log_batch", "uploading")


if __name__ == "__main__":
    from sweeper.cli.main import main

    if "marks" in FAULTS:
        arm({fault["at"] for fault in [*FAULTS.get("strikes", []), FAULTS.get("gate", {"at": ""})]})
    main()
