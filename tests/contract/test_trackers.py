"""What every tracker promises, and what only those that upload to MLflow can."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from sweeper.core.environment import EXPERIMENT
from sweeper.core.results import EpochResult
from sweeper.sweep.tracker import FIGURES
from sweeper.tracking.base import FAILED, FINISHED, KILLED, NullTracker, Recorded, RunInfo, RunLog, Tracker
from sweeper.tracking.epochs import epoch_metrics
from sweeper.tracking.fetching import KEY_TAG, UPLOAD, run_id_of
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.mlflow import MlflowTracker, sync
from sweeper.tracking.reading import ARTIFACTS, read_events

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytest_plugins = ["tests.support.mlflow_store"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

LONG = 60.0  # seconds, for what takes less than one
CONFIG = b'{"lr": 0.001}'
FINAL = {"final/val_accuracy": 0.75, "final/val_loss": 0.25}


@dataclass
class Place:
    """A journal, and the store behind it; each `tracker()` is one that a new process would make."""

    kind: str
    root: Path
    uri: str = ""
    warned: list[str] = field(default_factory=list)
    _open: list[Tracker] = field(default_factory=list)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def tracker(self) -> Tracker:
        made: Tracker
        if self.kind == "none":
            made = NullTracker()
        elif self.kind == "journal":
            made = JournalTracker(self.root)
        else:
            made = MlflowTracker(self.root, self.uri, FIGURES, self.warned.append)
        self._open.append(made)
        return made

    def close(self) -> None:
        for tracker in self._open:
            tracker.close(LONG)

    def run(self, **fields: Any) -> RunInfo:
        return replace(
            RunInfo(
                key=self.key,
                name="007 bn-dropout",
                params={"lr": "0.001", "placement": "bn-dropout"},
                tags={"sweeper.kind": "trial", "sweeper.trial": "7"},
                description="A **medium** network.",
                folder="demo/0007",
                dataset={"name": "sample", "sha256": "0123456789abcdef" * 4, "source": "/data", "profile": {"n": 6000}},
            ),
            **fields,
        )

    @property
    def folder(self) -> Path:
        return self.root / "demo/0007"

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self) -> list[Run]:
        """Every run that MLflow has of ours, deleted ones too."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return list(
            self.client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{self.key}'", run_view_type=3)
        )

    def the_run(self) -> Run:
        (run,) = self.runs()
        return run

    def points(self, run: Run) -> dict[str, list[tuple[int, int, float]]]:
        """(step, time, value) of every point of every metric."""
        histories = {name: self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        return {name: sorted((m.step, m.timestamp, m.value) for m in points) for name, points in histories.items()}

    def journal(self) -> dict[str, list[tuple[int, int, float]]]:
        """What the points in MLflow have to be: those of each epoch, and the last values at step 0."""
        points: dict[str, list[tuple[int, int, float]]] = {}
        for event in read_events(self.folder):
            for name, value in event.get("metrics", {}).items():
                points.setdefault(name, []).append((event.get("step", 0), event["time"], value))
        return points


def epoch(number: int) -> EpochResult:
    return EpochResult(number, 1 / number, 0.5, 1.5 / number, number / 8, 0.1, 1e-3, 2.0, 1.5, 300.0)


def write(log: RunLog, *steps: int, status: str | None = FINISHED) -> None:
    log.artifact("config.json", CONFIG)
    for step in steps:
        log.epoch(step, epoch_metrics(epoch(step)))
    if status is not None:
        log.end(status, FINAL if status == FINISHED else {}, {"sweeper.state": status.lower()})


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    folder = tmp_path_factory.mktemp("store")
    return f"sqlite:///{shutil.copy(empty_store, folder)}"


def place_of(kind: str, root: Path, request: pytest.FixtureRequest) -> Place:
    match kind:
        case "sqlite":
            return Place(kind, root, request.getfixturevalue("sqlite_store"))
        case "http":
            return Place(kind, root, request.getfixturevalue("mlflow_server").uri)
        case _:
            return Place(kind, root)


@pytest.fixture(params=["none", "journal", "sqlite", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of tracker in turn."""
    made = place_of(request.param, tmp_path / "journal", request)
    yield made
    made.close()


mlflow = pytest.mark.parametrize("place", ["sqlite", "http"], indirect=True)
sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


# --- every tracker -------------------------------------------------------------------------------


def test_a_run_goes_from_its_start_to_its_end_and_all_of_it_arrives_without_a_word(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = place.tracker()
    write(tracker.start(place.run()), 1, 2, 3)
    tracker.check()
    assert tracker.close(LONG) == 0
    assert place.tracker().close(LONG) == 0  # with nothing to wait for
    assert place.warned == []
    assert capfd.readouterr() == ("", "")


def test_a_run_that_is_started_again_continues(place: Place) -> None:
    first = place.tracker()
    write(first.start(place.run()), 1, 2, status=KILLED)
    assert first.recorded(place.run()) is None
    assert first.close(LONG) == 0
    second = place.tracker()
    write(second.start(place.run()), 1, 2, 3, 4)
    expected = Recorded([epoch(step) for step in (1, 2, 3, 4)], FINAL, {"sweeper.state": "finished"})
    assert second.recorded(place.run()) == (None if place.kind == "none" else expected)
    assert second.close(LONG) == 0


@pytest.mark.parametrize("status", [None, KILLED, FAILED])
def test_only_a_run_that_finished_counts_as_recorded(place: Place, status: str | None) -> None:
    tracker = place.tracker()
    assert tracker.recorded(place.run()) is None
    write(tracker.start(place.run()), 1, status=status)
    assert tracker.recorded(place.run()) is None


def test_what_another_run_left_in_the_folder_is_not_of_this_one(place: Place) -> None:
    tracker = place.tracker()
    write(tracker.start(place.run()), 1)
    assert tracker.recorded(place.run(key=f"{place.key}/another")) is None


def test_several_runs_can_be_open_at_once(place: Place) -> None:
    tracker = place.tracker()
    runs = [place.run(key=f"{place.key}/{n}", folder=f"demo/{n}") for n in range(3)]
    logs = [tracker.start(run) for run in runs]
    for step in (1, 2):
        for log in logs:
            log.epoch(step, epoch_metrics(epoch(step)))
    for n, log in enumerate(logs):
        log.end(FINISHED, {"n": float(n)}, {})
    if place.kind != "none":
        assert [tracker.recorded(run) for run in runs] == [
            Recorded([epoch(1), epoch(2)], {"n": float(n)}, {}) for n in range(3)
        ]
    assert tracker.close(LONG) == 0


# --- what MLflow shows of one run ----------------------------------------------------------------


@pytest.fixture(scope="module", params=["sqlite", "http"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of four epochs that has been uploaded as it went on; only to be looked at."""
    made = place_of(request.param, tmp_path_factory.mktemp("shown") / "journal", request)
    tracker = made.tracker()
    assert isinstance(tracker, MlflowTracker)
    log = tracker.start(made.run())
    write(log, 1, 2, status=None)
    assert tracker.flush(LONG)
    write(log, 3, 4)
    assert tracker.close(LONG) == 0
    assert made.warned == []
    return made


def test_mlflow_shows_the_run_once_under_its_name(shown: Place) -> None:
    run = shown.the_run()
    assert run.info.run_name == "007 bn-dropout"
    assert run.info.lifecycle_stage == "active"
    assert run_id_of(shown.root, "demo/0007", shown.uri) == run.info.run_id


def test_mlflow_shows_its_parameters_its_description_and_its_tags_those_of_its_end_among_them(shown: Place) -> None:
    data = shown.the_run().data
    assert data.params == {"lr": "0.001", "placement": "bn-dropout"}
    assert data.tags["mlflow.note.content"] == "A **medium** network."
    assert {name: value for name, value in data.tags.items() if name.startswith("sweeper.")} == {
        "sweeper.kind": "trial",
        "sweeper.trial": "7",
        "sweeper.attempt": "1",
        "sweeper.state": "finished",
        "sweeper.key": shown.key,
    }


def test_mlflow_has_each_epoch_once_at_the_time_it_happened_and_dates_the_run_by_its_events(shown: Place) -> None:
    points = shown.points(shown.the_run())
    assert [step for step, _, _ in points["val/loss"]] == [1, 2, 3, 4]
    assert points == shown.journal()
    events, info = read_events(shown.folder), shown.the_run().info
    assert (info.start_time, info.end_time) == (events[0]["time"], events[-1]["time"])


def test_mlflow_knows_the_data_set_as_an_input(shown: Place) -> None:
    (found,) = shown.the_run().inputs.dataset_inputs
    assert (found.dataset.name, json.loads(found.dataset.profile)) == ("sample", {"n": 6000})
    content, profile = found.dataset.digest.split("-")
    assert (content, len(profile)) == ("01234567", 8)
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_mlflow_has_its_files_and_the_journal_keeps_them(shown: Place, tmp_path: Path) -> None:
    run_id = shown.the_run().info.run_id
    found = Path(shown.client.download_artifacts(run_id, "", str(tmp_path)))
    files = {str(p.relative_to(found)): p.read_bytes() for p in found.glob("**/*") if p.is_file()}
    assert sorted(files) == ["config.json", "curves/history.csv", "curves/loss_accuracy.png"]
    assert files["config.json"] == CONFIG
    assert [line.split(b",")[0] for line in files["curves/history.csv"].splitlines()] == [
        b"epoch", b"1", b"2", b"3", b"4"
    ]  # fmt: skip
    with Image.open(io.BytesIO(files["curves/loss_accuracy.png"])) as image:
        image.load()
        assert image.format == "PNG"
    kept = shown.folder / ARTIFACTS
    assert {str(p.relative_to(kept)): p.read_bytes() for p in kept.glob("**/*") if p.is_file()} == files


@mlflow
@pytest.mark.parametrize("status", [FINISHED, FAILED, KILLED])
def test_mlflow_shows_how_the_run_ended(place: Place, status: str) -> None:
    tracker = place.tracker()
    write(tracker.start(place.run()), status=status)
    assert tracker.close(LONG) == 0
    assert place.the_run().info.status == status


# --- continuing ----------------------------------------------------------------------------------


def arrived(place: Place) -> None:
    tracker = place.tracker()
    assert isinstance(tracker, MlflowTracker)
    write(tracker.start(place.run()), 1, 2, status=None)
    assert tracker.flush(LONG)


def unsent(place: Place) -> None:
    write(JournalTracker(place.root).start(place.run()), 1, 2, status=None)


def unnoted(place: Place) -> None:
    arrived(place)
    (place.folder / UPLOAD).unlink()


def ended(place: Place) -> None:
    tracker = place.tracker()
    write(tracker.start(place.run()), 1, 2, status=KILLED)
    assert tracker.close(LONG) == 0


@mlflow
@pytest.mark.parametrize("left", [arrived, unsent, unnoted, ended])
def test_a_continued_run_is_one_run_with_each_step_once(place: Place, left: Callable[[Place], None]) -> None:
    left(place)
    tracker = place.tracker()
    write(tracker.start(place.run()), 1, 2, 3, 4)
    assert tracker.close(LONG) == 0
    run = place.the_run()
    assert run.info.status == FINISHED
    points = place.points(run)
    assert [(step, value) for step, _, value in points["val/accuracy"]] == [(n, n / 8) for n in (1, 2, 3, 4)]
    assert points == place.journal()


@mlflow
def test_a_continued_run_runs_again_and_counts_its_attempts(place: Place) -> None:
    ended(place)
    tracker = place.tracker()
    assert isinstance(tracker, MlflowTracker)
    tracker.start(place.run())
    assert tracker.flush(LONG)
    run = place.the_run()
    assert run.info.status == "RUNNING"
    assert run.data.tags["sweeper.attempt"] == "2"


@sqlite
def test_attempts_that_arrive_together_are_counted(place: Place) -> None:
    unsent(place)
    write(JournalTracker(place.root).start(place.run()), 1, 2, 3)
    sync(place.root, place.uri, place.root.parent, FIGURES, place.warned.append)
    assert place.the_run().data.tags["sweeper.attempt"] == "2"


@sqlite
def test_a_run_that_finished_no_longer_says_why_it_was_killed(place: Place) -> None:
    tracker = place.tracker()
    tracker.start(place.run()).end(KILLED, {}, {"sweeper.state": "killed", "sweeper.reason": "SIGTERM"})
    assert isinstance(tracker, MlflowTracker)
    assert tracker.flush(LONG)
    write(tracker.start(place.run()), 1)
    assert tracker.close(LONG) == 0
    assert "sweeper.reason" not in place.the_run().data.tags


@mlflow
@pytest.mark.parametrize("steps", [(1, 2, 3), ()])
def test_uploading_again_adds_no_run_and_no_point(place: Place, steps: tuple[int, ...]) -> None:
    tracker = place.tracker()
    write(tracker.start(place.run()), *steps)
    assert tracker.close(LONG) == 0
    before = place.the_run().to_dictionary(), place.points(place.the_run())
    (place.folder / UPLOAD).unlink()
    assert sync(place.root, place.uri, place.root.parent, FIGURES, place.warned.append) == 1
    assert (place.the_run().to_dictionary(), place.points(place.the_run())) == before
    assert sync(place.root, place.uri, place.root.parent, FIGURES, place.warned.append) == 0


# --- joining -------------------------------------------------------------------------------------


@mlflow
def test_a_run_that_exists_already_is_joined_and_its_own_parameters_stay(place: Place) -> None:
    theirs = place.client.create_run("0", run_name="theirs")  # as `mlflow run` makes it
    run_id = theirs.info.run_id
    place.client.log_param(run_id, "lr", "'1e-3'")
    place.client.log_param(run_id, "placement", "bn-dropout")
    for _ in range(2):  # the second time to continue it
        tracker = place.tracker()
        write(tracker.start(place.run(run_id=run_id, params={**place.run().params, "seed": "0"})), 1, 2)
        assert tracker.close(LONG) == 0
    run = place.client.get_run(run_id)
    assert run.data.params == {"lr": "'1e-3'", "config.lr": "0.001", "placement": "bn-dropout", "seed": "0"}
    assert (run.info.run_name, run.info.status) == ("007 bn-dropout", FINISHED)
    assert [step for step, _, _ in place.points(run)["val/loss"]] == [1, 2]
    assert run_id_of(place.root, "demo/0007", place.uri) == run_id
    assert place.runs() == []  # and none was made beside it
    assert place.warned == []
