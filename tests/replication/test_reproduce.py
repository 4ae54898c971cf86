"""The reproduction: what is trained, what is recorded, and that nothing is trained twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from sweeper.cli.main import main
from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import ConfigError, Interrupted, StudyConflict, StudyIncomplete, TrainingError, UsageError
from sweeper.core.results import EpochResult, Training
from sweeper.core.trial import Trial
from sweeper.data.fashion import FULL, SAMPLE, SAMPLE_DIR
from sweeper.engine import choice as engine_choice
from sweeper.engine.choice import EngineChoice
from sweeper.replication import reproduce
from sweeper.replication.arms import ARMS, PROTOCOLS, Arm, Protocol, arm_config, select
from sweeper.replication.claims.looks import fingerprint
from sweeper.replication.plan import Options, cost, make_plan, order
from sweeper.replication.report_record import record_report
from sweeper.replication.reproduce import ArmProgress, choose_machine, dry_run, run_name
from sweeper.replication.runs import read_runs
from sweeper.tracking.base import FAILED, FINISHED, KILLED
from sweeper.tracking.reading import read_events
from sweeper.tracking.store import EXPERIMENT
from sweeper.training.folds import finish
from sweeper.training.images import load
from sweeper.training.start import training

pytest_plugins = ["tests.support.mlflow_store"]

TINY = Protocol("quick", "for tests", seeds=2, train_images=600, epochs=1)  # batch-512 takes 512

JUDGED = replace(TINY, epochs=2)  # with one epoch, no claim about the course of a training can be judged

SMALL = {
    "exp2": Arm("", 2, {"model": "small", "lr": 2e-3}),
    "exp4": Arm("", 4, {"model": "small", "lr": 2e-3}),
}  # to be quick


@dataclass
class Place:
    """A folder to work in, and everything that was said there."""

    home: Path
    tracking_uri: str = OFFLINE
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        return Environment(self.home, self.tracking_uri, "", None, False, self.warned.append, self.said.append)

    @property
    def root(self) -> Path:
        return self.home / "journal/reproduce-quick"

    def reproduce(self, *experiments: int, command: Any = reproduce.reproduce, **options: Any) -> dict[str, Any]:
        """Reproduce experiments, by default 1 alone, in this process."""
        precision = options.pop("precision", "fp32")
        chosen = choose_machine(self.environment, "sample", "cpu", precision)
        engine = (
            EngineChoice("serial") if (workers := options.pop("workers", 1)) == 1 else EngineChoice(workers=workers)
        )
        asked = Options("quick", experiments or (1,), **({"only_experiments": True, "engine": engine} | options))
        return command(self.environment, chosen, asked)

    def events(self, run: str) -> list[dict[str, Any]]:
        return read_events(self.root / run)

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place where the protocol quick is a matter of tenths of seconds, on one thread."""
    monkeypatch.setitem(PROTOCOLS, "quick", TINY)
    for name, arm in SMALL.items():
        monkeypatch.setitem(ARMS, name, arm)
    for module in ("engine.choice", "replication.plan"):
        monkeypatch.setattr(f"sweeper.{module}.cores", lambda: 1)
    monkeypatch.setattr(reproduce, "record_report", lambda *_: None)  # drawing it takes seconds
    (tmp_path / "home").mkdir()
    return Place(tmp_path / "home")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that are trained, in their order."""
    configs: list[RunConfig] = []

    def noted(config: RunConfig, data: Any) -> Any:
        configs.append(config)
        return training(config, data)

    monkeypatch.setattr("sweeper.engine.serial.start", noted)
    return configs


def breaks(monkeypatch: pytest.MonkeyPatch, *reasons: str) -> None:
    """Let the training of seed n fail with the nth reason, if it is not empty."""

    def failing(config: RunConfig, data: Any) -> Training:
        if config.seed < len(reasons) and reasons[config.seed]:
            raise TrainingError(reasons[config.seed])
        return (yield from training(config, data))

    monkeypatch.setattr("sweeper.engine.serial.start", failing)


# --- what is trained and recorded --------------------------------------------------------------------------


def test_every_arm_and_seed_is_a_finished_run_in_its_folder(place: Place):
    result = place.reproduce(1, 2, seeds=2)
    assert (result["runs"], result["recorded"], result["added"], result["failed"]) == (4, 4, 4, {})
    folders = sorted(str(path.parent.relative_to(place.root)) for path in place.root.glob("*/*/events.jsonl"))
    assert folders == ["exp1/seed-0", "exp1/seed-1", "exp2/seed-0", "exp2/seed-1"]
    first, *_, last = place.events("exp2/seed-1")
    config = arm_config("exp2", TINY, 1, dataset="sample")
    assert RunConfig.from_params(first["params"]) == config
    assert first["key"].endswith(f"/{config.key}")
    assert first["name"] == "exp2 s1"
    expected = {"protocol": "quick", "arm": "exp2", "seed": "1", "kind": "run", "experiment": "2", "threads": "1"}
    assert {name: first["tags"][f"sweeper.{name}"] for name in expected} == expected
    assert first["dataset"]["profile"]["train_images"] == 600
    assert last["status"] == FINISHED


def test_the_result_has_a_line_for_each_arm_as_the_journal_has_it(place: Place):
    result = place.reproduce(1, seeds=2)
    assert json.loads(json.dumps(result)) == result
    (row,) = result["arms"]
    (runs,) = read_runs(place.home / "journal", "quick").values()
    assert (row["arm"], row["complete"], row["diverged"]) == ("exp1", 2, 0)
    assert row["val_accuracy"] == pytest.approx(sum(run.final["final/val_accuracy"] for run in runs) / 2)


def test_all_of_a_protocol_is_planned_with_its_seeds_and_names_fit_into_mlflow(place: Place):
    result = place.reproduce(command=dry_run, only_experiments=False)
    assert sorted(run["arm"] for run in result["plan"]) == ["exp1", "exp1", "exp1-long", "exp1-long"]
    chosen = choose_machine(place.environment, "sample", "cpu", "fp32")
    everything = make_plan(place.environment, chosen, Options("quick"))
    assert {run.arm for run in everything} == set(ARMS)
    names = {run_name(run.arm, run.config.seed) for run in everything}
    assert (len(names), max(map(len, names))) == (len(everything), 18)


def test_an_arm_may_have_fewer_seeds_but_not_than_are_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PROTOCOLS, "quick", replace(TINY, seeds=3, at_most={"exp1": 2}))
    result = place.reproduce(1, 2, command=dry_run)
    assert sorted((run["arm"], run["seed"]) for run in result["plan"]) == [
        ("exp1", 0), ("exp1", 1), ("exp2", 0), ("exp2", 1), ("exp2", 2),
    ]  # fmt: skip
    result = place.reproduce(1, 2, seeds=3, command=dry_run)
    assert sorted((run["arm"], run["seed"]) for run in result["plan"]) == [
        (arm, seed) for arm in ("exp1", "exp2") for seed in range(3)
    ]


def test_two_arms_of_one_recipe_are_trained_once(place: Place, trained: list[RunConfig], monkeypatch: Any):
    monkeypatch.setitem(ARMS, "exp1-again", Arm("1 once more", 1, {"conv_dropout": 0.5}))  # which `none` does not have
    monkeypatch.delitem(ARMS, "exp1-long")
    result = place.reproduce(1, seeds=1, only_experiments=False)
    assert (len(trained), result["runs"]) == (1, 1)
    assert [len(runs) for runs in read_runs(place.home / "journal", "quick").values()] == [1, 1]


@pytest.mark.parametrize(("manifest", "images"), [(SAMPLE, 0), (FULL, 12_000)], ids=["sample", "full"])
def test_a_data_set_with_fewer_images_than_the_protocol_wants_is_used_whole(
    place: Place, monkeypatch: Any, manifest: Any, images: int
):
    monkeypatch.undo()
    chosen = SimpleNamespace(manifest=manifest, config=RunConfig())
    planned = make_plan(place.environment, chosen, Options("quick"))
    assert {run.config.train_images for run in planned} == {images}


# --- order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_each_seed_has_every_arm_once_before_the_next_begins(protocol: Protocol):
    arms = select(protocol)
    planned = list(order(arms, 5))
    assert [seed for _, seed in planned] == [seed for seed in range(5) for _ in arms]
    for seed in range(5):
        assert sorted(arm for arm, s in planned if s == seed) == sorted(arms)
    assert planned == list(order(arms, 5))


def test_the_large_networks_come_first_and_the_others_begin_elsewhere_with_each_seed():
    arms = select(PROTOCOLS["full"])
    of_seed = [[arm for arm, s in order(arms, 5) if s == seed] for seed in range(5)]
    assert {tuple(sorted(names[:3])) for names in of_seed} == {("exp8", "large-both", "large-none")}
    assert len({names[3] for names in of_seed}) == 5
    following = {names[names.index("exp4") + 1] for names in of_seed if names[-1] != "exp4"}
    assert following == {"exp5"}  # what is compared stays together


@pytest.mark.parametrize("number", range(9))
def test_any_number_of_arms_is_rotated(number: int):
    arms = [name for name in select(PROTOCOLS["full"]) if not name.startswith(("exp8", "large"))][:number]
    firsts = [next(arm for arm, s in order(arms, number) if s == seed) for seed in range(number)]
    assert sorted(firsts) == sorted(arms)


def test_runs_are_trained_in_that_order(place: Place, trained: list[RunConfig]):
    place.reproduce(1, 2, 4, seeds=2)
    names = {config.key: f"exp{config.experiment}" for config in trained}
    assert [(names[config.key], config.seed) for config in trained] == list(order(["exp2", "exp4", "exp1"], 2))


def test_workers_train_the_same_runs(place: Place):
    assert place.reproduce(1, 2, seeds=1, workers=2)["added"] == 2
    config = arm_config("exp2", TINY, 0, dataset="sample")
    (run,) = read_runs(place.home / "journal", "quick")["exp2"]
    assert run.history_sha256 == finish(training(config, load(config, SAMPLE_DIR))).history_sha256


# --- what is recorded is not trained again -----------------------------------------------------------------


def test_the_same_again_trains_nothing_and_says_so(place: Place, monkeypatch: pytest.MonkeyPatch):
    before = place.reproduce(1, seeds=2)
    files = place.files()
    monkeypatch.setattr(engine_choice, "build", lambda *_, **__: pytest.fail("there is nothing to train"))
    assert place.reproduce(1, seeds=2) == before | {"added": 0}
    assert place.files() == files
    assert place.said[-1] == "2 of 2 runs are recorded already"


def test_more_seeds_and_arms_add_what_is_missing(place: Place, trained: list[RunConfig]):
    place.reproduce(1, seeds=1)
    result = place.reproduce(1, 2, seeds=2)
    assert (result["recorded"], result["added"]) == (4, 3)
    assert [(config.experiment, config.seed) for config in trained] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert place.said[-1] == "1 of 4 runs are recorded already"


def test_a_run_that_diverged_is_done(place: Place, trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ARMS, "exp1", Arm("", 1, {"lr": 1e6}))
    result = place.reproduce(1, 2, seeds=1)
    assert (result["recorded"], result["failed"]) == (2, {})
    assert [(row["arm"], row["complete"], row["diverged"]) for row in result["arms"]] == [
        ("exp2", 1, 0),
        ("exp1", 0, 1),
    ]
    assert "lower lr" in place.events("exp1/seed-0")[-1]["tags"]["sweeper.reason"]
    assert place.reproduce(1, 2, seeds=1)["added"] == 0
    assert len(trained) == 2


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, "", "no luck")
    result = place.reproduce(1, 2, seeds=3)
    assert (result["recorded"], result["added"]) == (4, 4)
    assert result["failed"] == {f"exp{n} seed 1": "no luck" for n in (1, 2)}
    assert place.events("exp1/seed-1")[-1]["status"] == FAILED
    breaks(monkeypatch)
    result = place.reproduce(1, 2, seeds=3)
    assert (result["recorded"], result["added"], result["failed"]) == (6, 2, {})
    events = place.events("exp1/seed-1")
    assert [e["event"] for e in events] == ["start", "end", "start", "epoch", "end"]  # of one run
    assert (events[0]["key"], events[-1]["status"]) == (events[2]["key"], FINISHED)


def test_where_nothing_works_the_command_gives_up(place: Place, monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, *["no memory"] * 10)
    with pytest.raises(StudyIncomplete, match="the first 3 trials failed alike: no memory"):
        place.reproduce(1, seeds=10)
    assert len(list(place.root.glob("exp1/*"))) == 3


def test_a_changed_recipe_is_a_new_run_and_the_old_one_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.reproduce(1, seeds=1)
    old = place.events("exp1/seed-0")
    monkeypatch.setitem(ARMS, "exp1", Arm("", 1, {"lr": 5e-4}))
    assert place.reproduce(1, seeds=1)["added"] == 1
    assert place.warned == ["1 recorded run of another configuration set aside in the journal; training anew"]
    assert place.events("exp1/seed-0")[0]["params"]["lr"] == "0.0005"
    (aside,) = place.root.glob("exp1/seed-0.*")
    assert read_events(aside) == old
    assert place.reproduce(1, seeds=1)["added"] == 0


def test_two_places_have_different_runs_of_one_recipe(place: Place, tmp_path: Path):
    other = Place(tmp_path)
    for each in (place, other):
        each.reproduce(1, seeds=1)
    keys = [each.events("exp1/seed-0")[0]["key"] for each in (place, other)]
    assert keys[0] != keys[1]  # so that one MLflow server can have both


# --- what is refused -------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_compared_are_not_mixed(place: Place):
    place.reproduce(1, seeds=1)
    files = place.files()
    for command in (reproduce.reproduce, dry_run):
        with pytest.raises(StudyConflict, match=r"of another kind \(precision was 'fp32', is 'bf16'\)"):
            place.reproduce(1, precision="bf16", command=command)
    assert place.files() == files


def test_a_second_command_is_refused_while_the_first_runs(place: Place):
    place.root.mkdir(parents=True)
    with filelock.FileLock(place.root / ".lock"), pytest.raises(StudyConflict, match="another process"):
        place.reproduce(1)
    assert place.files() == {}
    assert place.reproduce(1, seeds=1)["added"] == 1  # and the lock is free again
    assert place.reproduce(1, seeds=2)["added"] == 1


def test_a_reproduction_that_nothing_would_record_is_refused(place: Place):
    place.tracking_uri = NONE
    with pytest.raises(UsageError, match="--tracking-uri none"):
        place.reproduce(1)
    assert place.files() == {}


def test_an_arm_whose_batch_does_not_fit_is_refused_before_anything_is_created(place: Place, monkeypatch: Any):
    monkeypatch.setitem(PROTOCOLS, "quick", Protocol("quick", "", seeds=1, epochs=1))
    monkeypatch.setitem(ARMS, "exp1-long", Arm("", 1, {"batch_size": 7_001}))
    with pytest.raises(ConfigError, match="batch_size=7001"):
        place.reproduce(1, only_experiments=False)
    assert list(place.home.iterdir()) == []


# --- looking before -------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_is_recorded_and_creates_nothing(place: Place):
    place.reproduce(1, seeds=1)
    files = place.files()
    result = place.reproduce(1, 2, seeds=2, command=dry_run)
    assert (result["runs"], result["recorded"]) == (4, 1)
    assert result["seconds"] > 0
    assert place.files() == files
    assert "exp1               1/2 seeds recorded   1 epochs  small CNN, plain" in place.said
    assert place.said[-1].startswith("2 arms, 4 runs, 3 to train: about ")
    assert place.said[-1].endswith("(at the pace of the 1 recorded run)")


def test_a_run_costs_what_its_network_images_and_epochs_cost():
    one = cost(arm_config("exp6", PROTOCOLS["quick"], 0), FULL)
    assert cost(arm_config("exp6", PROTOCOLS["quick"], 0, epochs=12), FULL) == 2 * one
    assert cost(arm_config("exp8", PROTOCOLS["quick"], 0), FULL) > 9 * one
    assert (
        cost(arm_config("exp1", PROTOCOLS["quick"], 0), FULL)
        < one
        < cost(arm_config("exp6", PROTOCOLS["full"], 0), FULL)
    )


# --- progress ---------------------------------------------------------------------------------------------------


def test_the_forecast_weighs_each_run_by_what_it_costs(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("sweeper.sweep.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    state = ArmProgress(target=4, since=0, unit="run", finished=1, at_start=1, costs={1: 10, 2: 10, 3: 80},
                        names={1: "exp1 seed 5", 2: "exp2 seed 5", 3: "exp8 seed 5"})  # fmt: skip
    trials = {number: Trial(number, RunConfig(epochs=4, seed=5)) for number in (1, 2, 3)}
    for number in (1, 3):
        state.started(trials[number])
    now[0] = 30
    assert state.seconds_left() is None
    state.ended(trials[1], "complete", 0.9)
    assert state.seconds_left() == pytest.approx(30 * 90 / 10)
    state.epoch(trials[3], EpochResult(1, 0.9, 0.6, 1.1, 0.5, 0.1, 1e-3, 2.0, 0.5, 9.0))
    assert state.seconds_left() == pytest.approx(30 * 70 / 30)
    state.ended(trials[3], "lost", None)  # and is tried again from its start
    assert state.seconds_left() == pytest.approx(30 * 90 / 10)
    state.ended(trials[3], "pruned", None)
    assert (state.word("pruned"), state.label(trials[3])) == ("diverged", "exp8 seed 5")
    assert state.summary() == "3/4 runs finished, 1 diverged, about 3s left"


# --- as a command ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `sweeper reproduce` in this process: its exit code, stdout and stderr."""
    monkeypatch.setitem(PROTOCOLS, "quick", JUDGED)
    for name in [n for n in os.environ if n.startswith(("SWEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # which main() would leave behind
    monkeypatch.setenv("SWEEPER_HOME", str(place.home))

    def call(*argv: str) -> tuple[int, str, str]:
        words = ["sweeper", "reproduce", "--protocol", "quick", "--dataset", "sample", "--offline", *argv]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as done:
            main()
        return (int(done.value.code or 0), *capsys.readouterr())

    return call


def test_the_command_ends_with_a_table_and_names_the_one_that_judges(command: Callable[..., Any]):
    code, out, err = command("--exp", "1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "run 0: complete" in lines[0]
    assert "[exp1 seed 0]  1/2 runs finished" in lines[0]
    assert lines[2] == "2 of 2 runs are recorded; 2 added now"
    assert lines[3].split() == ["arm", "seeds", "val", "accuracy", "sd", "val", "NLL", "s/epoch", "diverged"]
    assert lines[4].split()[:2] == ["exp1", "2"]
    assert lines[5].endswith("sweeper verify --protocol quick")


def test_a_failed_run_is_named_and_the_exit_code_is_3(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    breaks(monkeypatch, "", "no luck")
    code, out, err = command("--exp", "1", "--seeds", "3", "--engine", "serial", "--json")
    assert code == 3
    assert json.loads(out)["failed"] == {"exp1 seed 1": "no luck"}
    assert err.splitlines()[-1] == ("error: 1 of 3 runs failed: exp1 seed 1 (no luck); the same command tries again")


@pytest.mark.parametrize(
    ("argv", "arms"),
    [
        (["--exp", "1"], {"exp1"}),
        (["--exp", "1", "--arms", "all"], {"exp1", "exp1-long"}),
        (["--arms", "experiments"], {f"exp{n}" for n in range(1, 9)}),
        ([], set(ARMS)),
    ],
    ids=["exp", "exp-all", "experiments", "all"],
)
def test_the_arms_that_the_options_name(command: Callable[..., Any], place: Place, argv: list[str], arms: set[str]):
    code, out, _ = command(*argv, "--dry-run", "--json")
    assert code == 0
    assert {run["arm"] for run in json.loads(out)["plan"]} == arms
    assert list(place.home.iterdir()) == []


# --- MLflow ------------------------------------------------------------------------------------------------------


# MLflow's own use of SQLAlchemy 2.1
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
def test_what_was_recorded_offline_arrives_with_the_next_command_once(place: Place, empty_store: Path):
    from mlflow import MlflowClient

    place.reproduce(1, seeds=1)
    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    for _ in range(2):
        place.reproduce(1, seeds=2)
    client = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("exp1 s0", "FINISHED"), ("exp1 s1", "FINISHED"),
    ]  # fmt: skip
    assert {run.data.tags["sweeper.arm"] for run in runs} == {"exp1"}
    assert RunConfig.from_params(runs[0].data.params).train_images == 600
    recorded = read_runs(place.home / "journal", "quick")["exp1"]
    assert {run.run_id for run in recorded} == {run.info.run_id for run in runs}


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
def test_the_report_is_an_artifact_of_one_run_that_sums_all_up(
    place: Place, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    monkeypatch.setitem(PROTOCOLS, "quick", JUDGED)
    monkeypatch.setattr(reproduce, "record_report", record_report)
    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    for seeds in (1, 2, 2):
        place.reproduce(1, seeds=seeds)
    client = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`sweeper.kind` = 'study'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["sweeper.study"] == "reproduce-quick"
    assert run.data.metrics == {"study/complete": 2, "study/diverged": 0}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"report.html", "figures-4-to-11.png"}
    page = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text()
    assert "exp1" in page
    assert "Verdicts" in page


@pytest.mark.parametrize("left", ["nothing", "no end", "other runs"])
def test_a_report_that_was_not_recorded_is_recorded_by_the_next_command(
    place: Place, left: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PROTOCOLS, "quick", JUDGED)
    monkeypatch.setattr(reproduce, "record_report", record_report)

    def interrupt(*_: Any) -> bytes:
        raise Interrupted(signal.SIGINT)

    if left == "nothing":
        with monkeypatch.context() as drawing:
            drawing.setattr("sweeper.replication.pages.print.article_print", interrupt)
            with pytest.raises(Interrupted):
                place.reproduce(1, seeds=2)
        assert place.events("study") == []
        assert place.warned == ["the reproduction was interrupted; the same command continues it"]
    else:
        place.reproduce(1, seeds=1 if left == "other runs" else 2)
    if left == "no end":  # as after a kill
        path = place.root / "study/events.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    if left == "other runs":
        place.reproduce(1, seeds=2)
    assert place.reproduce(1, seeds=2)["added"] == 0
    events = place.events("study")
    assert (events[-1]["status"], events[-1]["metrics"]["study/complete"]) == (FINISHED, 2)
    assert events[-1]["tags"]["sweeper.fingerprint"] == fingerprint(read_runs(place.home / "journal", "quick"))
    place.reproduce(1, seeds=2)
    assert place.events("study") == events  # it is there


# --- kill -9 -----------------------------------------------------------------------------------------------------

# On one core, with runs of two seconds; the packages that were imported are the last line of stderr.
PROGRAM = """
import atexit, os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
atexit.register(lambda: print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
from sweeper.replication.arms import PROTOCOLS, Protocol
PROTOCOLS["quick"] = Protocol("quick", "", seeds=2, train_images=1_000, epochs=6)
from sweeper.cli.main import main
main()
"""
COMMAND = ("reproduce", "--exp", "1", "--seeds", "2", "--protocol", "quick", "--dataset", "sample", "--offline")


def test_a_reproduction_that_is_killed_trains_no_finished_run_again_and_imports_no_mlflow(
    tmp_path: Path, alone: dict[str, str], until: Callable[..., Any]
):
    home = Place(tmp_path / "home")
    home.home.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMAND], cwd=home.home, env=alone, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            until(lambda: len(home.events("exp1/seed-1")) > 1, "the second run's first epoch", 300)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    finished, left = home.events("exp1/seed-0"), home.events("exp1/seed-1")
    assert left[-1]["event"] == "epoch"  # it was killed with a run in hand

    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, *COMMAND], cwd=home.home, env=alone, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == "1 of 2 runs are recorded already"
    assert home.events("exp1/seed-0") == finished
    events = home.events("exp1/seed-1")
    assert events[: len(left)] == left
    assert [e["step"] for e in events if e["event"] == "epoch"] == list(range(1, 7))
    others = [(e["event"], e.get("status")) for e in events if e["event"] != "epoch"]
    assert others == [("start", None), ("end", KILLED), ("start", None), ("end", FINISHED)]
    assert [run.seed for run in read_runs(home.home / "journal", "quick")["exp1"]] == [0, 1]
    imported = set(again.stderr.splitlines()[-1].split())
    assert "optuna" not in imported
    assert "mlflow" not in imported
