from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import optuna
import pytest
import sqlalchemy

from sweeper.core.config import RunConfig, check_name
from sweeper.core.errors import ConfigError, ServiceUnreachable, StudyConflict, SweeperError, UsageError
from sweeper.core.trial import Trial
from sweeper.core.urls import database_url
from sweeper.study.importance import importance_intervals
from sweeper.study.opening import open_study
from sweeper.study.reading import read_record, read_study
from sweeper.study.rows import TrialRow, best_row
from sweeper.study.space import Choice, Range, Space, default_space
from sweeper.study.study import Study, StudySettings
from tests.support.optuna_store import stored

pytest_plugins = ["tests.support.postgres"]
# Optuna marks TPESampler's multivariate, group and constant_liar as experimental.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SETTINGS = StudySettings(RunConfig(dataset="sample"), default_space(), dataset_sha256="0" * 64)
MEMORY = "sqlite://"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def study() -> Iterator[Study]:
    """A new study in memory."""
    with closing(open_study("demo", replace(SETTINGS, sampler="random", pruner="none"), MEMORY)) as opened:
        yield opened


def refusal(call: Callable[[], Any], kind: type[SweeperError]) -> str:
    """The message with which `call` is refused; always one line."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- names and URLs ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "7", "bn-vs.dropout_2", "A" * 100])
def test_a_plain_name_is_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A" * 101, "../up", ".hidden", "-rf", "_x", "a/b", "a b", "a\n", "a\nb", "a\0", "<b>x</b>", "\x1b[31m", "é"],
)
def test_any_other_name_is_refused_before_anything_is_created(name: str, tmp_path: Path, url: str) -> None:
    assert "1 to 100 letters" in refusal(lambda: open_study(name, SETTINGS, url), ConfigError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("postgres://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql+psycopg://u:p@h:5433/db", "postgresql+psycopg://u:p@h:5433/db"),
        ("sqlite:///folder/file.db", "sqlite:///folder/file.db"),
    ],
)
def test_a_storage_url_means_what_it_says(written: str, meant: str) -> None:
    assert database_url(written).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize(
    "written", ["", "sweeper.db", "foo://x", "mysql://u:canary@h/db", "mysql://u:can/ary@h/db", "mysql+x://u:canary@h"]
)
def test_any_other_storage_url_is_refused_without_its_password(written: str, tmp_path: Path) -> None:
    message = refusal(lambda: database_url(written), UsageError)
    assert "expected sqlite:///FILE or postgresql://" in message
    assert "ary" not in message


def test_a_password_with_an_at_sign_is_not_shown() -> None:
    assert "ary" not in refusal(lambda: database_url("mysql://u:can@ary@h/db"), UsageError)


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://h/db?password=canary",
        "postgresql://h/db#x?host=/tmp&PassWord=canary",
        "postgres://u:p@h/db?p%61ssword=canary&user=u",
        "postgresql+psycopg://h/db?sslpassword=canary",
        "sqlite:///file.db?password=canary",
    ],
)
def test_a_password_in_the_query_of_a_url_is_refused_and_not_shown(written: str) -> None:
    message = refusal(lambda: database_url(written), UsageError)
    assert "password=***': what follows the ? is shown to others; put the password into ~/" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "written", ["mysql://h/db?password=canary", "postgresql://h:port/db?user=u&sslpassword=canary"]
)
def test_a_url_that_is_refused_for_something_else_does_not_show_it_either(written: str) -> None:
    assert "password=***'" in refusal(lambda: database_url(written), UsageError)


def test_a_file_of_passwords_may_be_named_in_the_query_of_a_url() -> None:
    assert database_url("postgresql://h/db?passfile=/x/pgpass").query == {"passfile": "/x/pgpass"}


def test_a_port_that_is_no_number_is_refused() -> None:
    assert "canary" not in refusal(lambda: database_url("postgresql://u:canary@h:port/db"), UsageError)


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    message = refusal(lambda: open_study("demo", SETTINGS, "postgres://u:canary@127.0.0.1:1/db"), ServiceUnreachable)
    assert "127.0.0.1:1/db" in message
    assert "canary" not in message


def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    message = refusal(lambda: open_study("demo", SETTINGS, f"sqlite:///{tmp_path}/no/sweeper.db"), SweeperError)
    assert f"{tmp_path}/no/sweeper.db" in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_named_and_not_held(tmp_path: Path, url: str) -> None:
    (tmp_path / "sweeper.db").write_bytes(b"not a database" * 100)
    for _ in range(2):
        assert "not a database" in refusal(lambda: open_study("demo", SETTINGS, url), SweeperError)


# --- continuing, or not --------------------------------------------------------------------------


def test_the_same_settings_continue_the_study(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as first:
        first.prune(first.ask().number, "why not")
    with closing(open_study("demo", replace(SETTINGS), url)) as second:
        assert (first.continued, second.continued) == (False, True)
        assert second.uid == first.uid
        assert second.finished() == 1


def test_another_device_or_experiment_number_continues_the_study(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    elsewhere = replace(SETTINGS, base=SETTINGS.base.derive(device="cuda:1", experiment=6))
    with closing(open_study("demo", elsewhere, url)) as continued:
        assert continued.continued


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        pytest.param(
            {"seed": 1},
            "seed was 0, is 1",
        ),
        ({"seed": 1, "base": SETTINGS.base.derive(seed=1)}, "seed was 0, is 1"),
        ({"sampler": "gp"}, "sampler was 'tpe', is 'gp'"),
        ({"pruner": "none"}, "pruner was 'percentile', is 'none'"),
        ({"dataset_sha256": "f" * 64}, f"dataset_sha256 was '{'0' * 64}', is '{'f' * 64}'"),
        ({"base": SETTINGS.base.derive(epochs=3)}, "epochs was 10, is 3"),
        ({"space": Space({"lr": Range(1e-4, 1e-2, log=True)})}, "space.lr was None, is {'low': 0.0001"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_settings_are_refused_with_what_differs(url: str, other: dict[str, Any], difference: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.ask()
    message = refusal(lambda: open_study("demo", replace(SETTINGS, **other), url), StudyConflict)
    assert difference in message
    assert message.count(" was ") == 1 or {"space", "base"} & other.keys()
    with closing(open_study("demo", SETTINGS, url)) as study:  # and the refused driver holds nothing
        assert len(study.rows()) == 1


def test_a_choice_in_another_order_is_another_space(url: str) -> None:
    def settings(*sizes: int) -> StudySettings:
        return replace(SETTINGS, space=Space({"batch_size": Choice(sizes)}))

    open_study("demo", settings(32, 64), url).close()
    message = refusal(lambda: open_study("demo", settings(64, 32), url), StudyConflict)
    assert "space.batch_size was [32, 64], is [64, 32]" in message


def test_settings_stored_before_there_was_a_number_of_training_images_are_continued(url: str) -> None:
    assert "train_images" not in SETTINGS.describe()  # so that what was stored is equal to what is asked for
    open_study("demo", SETTINGS, url).close()
    fewer = replace(SETTINGS, base=SETTINGS.base.derive(train_images=1_000))
    message = refusal(lambda: open_study("demo", fewer, url), StudyConflict)
    assert "(train_images was None, is 1000)" in message


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_study_that_sweeper_did_not_make_is_refused_and_left_alone(url: str, direction: str) -> None:
    theirs = optuna.create_study(storage=url, study_name="theirs", direction=direction)
    theirs.tell(theirs.ask(), 0.5)
    assert "was not made by sweeper" in refusal(lambda: open_study("theirs", SETTINGS, url), StudyConflict)
    assert (len(theirs.trials), theirs.user_attrs) == (1, {})


def test_a_study_that_was_created_but_not_yet_described_is_taken_over(url: str) -> None:
    optuna.create_study(storage=url, study_name="demo", direction="maximize")  # killed before it went on
    open_study("demo", SETTINGS, url).close()
    message = refusal(lambda: open_study("demo", replace(SETTINGS, sampler="gp"), url), StudyConflict)
    assert "sampler was 'tpe', is 'gp'" in message


def test_two_studies_have_different_identities(url: str) -> None:
    with closing(open_study("one", SETTINGS, url)) as one, closing(open_study("two", SETTINGS, url)) as two:
        assert one.uid != two.uid


# --- one driver at a time ------------------------------------------------------------------------


def test_a_study_that_is_held_refuses_a_second_driver_and_names_the_first(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)):
        message = refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
        assert f"process {os.getpid()} " in message
    open_study("demo", SETTINGS, url).close()


def test_a_held_study_whose_holder_is_unknown_is_refused_all_the_same(tmp_path: Path, url: str) -> None:
    with filelock.FileLock(tmp_path / "sweeper.db.demo.lock"):
        assert "by another process" in refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)


HOLD = """
import sys
from sweeper.core.config import RunConfig
from sweeper.study.space import default_space
from sweeper.study.opening import open_study
from sweeper.study.study import StudySettings
study = open_study("demo", StudySettings(RunConfig(dataset="sample"), default_space(), "0" * 64), sys.argv[1])
print(study.ask().number, flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_leaves_the_study_to_the_next_one(url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "0\n"
        message = refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
        driver.kill()
    assert f"process {driver.pid} " in message
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert [trial.number for trial in study.unfinished()] == [0]


TOGETHER = """
import sys
import time
from pathlib import Path

from sweeper.core.config import RunConfig
from sweeper.study.space import default_space
from sweeper.study.opening import open_study
from sweeper.study.study import StudySettings

mine, other, *urls = sys.argv[1:]
settings = StudySettings(RunConfig(dataset="sample"), default_space(), "0" * 64)
for number, url in enumerate(urls):
    Path(f"{mine}-{number}").touch()
    until = time.monotonic() + 60
    while not Path(f"{other}-{number}").exists():
        if time.monotonic() > until:
            sys.exit("the other one is gone")
    open_study(mine, settings, url).close()
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_studies_can_be_created_at_once_in_a_new_database(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    new = request.getfixturevalue("new_database") if kind == "postgresql" else None
    urls = [new() if new else f"sqlite:///{tmp_path / str(n)}.db" for n in range(10)]
    command = [sys.executable, "-W", "ignore", "-c", TOGETHER]
    both = [
        subprocess.Popen([*command, *names, *urls], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    try:
        assert [process.communicate(timeout=120)[1] for process in both] == ["", ""]
    finally:
        for process in both:
            process.kill()
    for url in urls:
        assert {read_study(name, url).name for name in "ab"} == {"a", "b"}


# --- outcomes ------------------------------------------------------------------------------------


def test_finished_counts_complete_and_pruned_trials_but_not_failed_or_running_ones(study: Study) -> None:
    for _ in range(4):
        study.ask()
    study.complete(0, 0.9, 0.3)
    study.prune(1, "slow")
    study.fail(2, "out of memory")
    assert (study.finished(), study.failed()) == (2, 1)
    assert [trial.number for trial in study.unfinished()] == [3]


def test_rows_say_what_became_of_each_trial(study: Study) -> None:
    configs = [study.ask().config for _ in range(4)]
    for number in (0, 1, 3):
        study.report(number, 1, 0.5)
        study.report(number, 2, 0.7)
    study.complete(0, 0.9, 0.3)
    study.prune(1, "slow")
    study.fail(2, "out of memory")
    rows = study.rows()
    assert [(r.number, r.state, r.value, r.loss, r.epochs, r.reason) for r in rows] == [
        (0, "complete", 0.9, 0.3, 2, ""),
        (1, "pruned", 0.7, None, 2, "slow"),
        (2, "failed", None, None, 0, "out of memory"),
        (3, "running", 0.7, None, 2, ""),
    ]
    assert all(r.seconds is not None and r.seconds >= 0 for r in rows)
    assert [r.params["placement"] for r in rows] == [c.placement.value for c in configs]


def test_a_step_reported_twice_keeps_its_first_value(study: Study) -> None:
    trial = study.ask()
    study.report(trial.number, 1, 0.5)
    study.report(trial.number, 1, 0.9)
    assert study.rows()[0].value == 0.5


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(math.nan, 0.3), (math.inf, 0.3), (-math.inf, 0.3), (0.9, math.nan), (0.9, math.inf)]
)
def test_a_value_that_is_not_finite_is_never_told(study: Study, accuracy: float, loss: float) -> None:
    trial = study.ask()
    with pytest.raises(ValueError, match="not finite"):
        study.complete(trial.number, accuracy, loss)
    assert study.rows()[0].state == "running"
    study.prune(trial.number, "diverged")  # and the trial can still be ended
    assert study.rows()[0].state == "pruned"


def test_the_pruner_stops_the_worst_trial_after_its_warm_up() -> None:
    with closing(open_study("demo", replace(SETTINGS, sampler="random", pruner="median"), MEMORY)) as study:
        for accuracy in (0.5, 0.6, 0.7, 0.8, 0.9):
            number = study.ask().number
            assert not any(study.report(number, step, accuracy) for step in range(1, 6))
            study.complete(number, accuracy, 0.3)
        bad = study.ask().number
        assert [study.report(bad, step, 0.1) for step in range(1, 6)] == [False, False, True, True, True]


def test_a_continued_trial_is_judged_at_each_step_as_it_was_before_the_interruption(url: str) -> None:
    settings = replace(SETTINGS, sampler="random", pruner="median")
    with closing(open_study("demo", settings, url)) as study:
        for accuracy in (0.5, 0.6, 0.7, 0.8, 0.9):
            number = study.ask().number
            assert not any(study.report(number, step, accuracy) for step in range(1, 6))
            study.complete(number, accuracy, 0.3)
        bad = study.ask().number
        before = [study.report(bad, step, 0.1) for step in range(1, 4)]
        study.settle()
    with closing(open_study("demo", settings, url)) as study:
        assert [trial.number for trial in study.unfinished()] == [bad]
        again = [study.report(bad, step, 0.1) for step in range(1, 4)]
    assert before == again == [False, False, True]


def test_a_file_that_cannot_be_written_is_no_service_that_went_away(study: Study) -> None:
    full = sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(SweeperError, match=r"cannot be written .*disk is full") as caught, study.answering():
        raise full
    assert caught.value.exit_code == 1


def test_a_network_that_a_complete_trial_has_trained_already_is_named(url: str) -> None:
    settings = replace(SETTINGS, space=Space({"batch_size": Choice((64,))}))
    with closing(open_study("demo", settings, url)) as study:
        study.prune(study.ask().number, "not complete, so it has no duplicates")
        assert study.ask().duplicate_of is None
        study.complete(1, 0.9, 0.3)
        assert study.ask().duplicate_of == 1
    with closing(open_study("demo", settings, url)) as study:
        assert [(trial.number, trial.duplicate_of) for trial in study.unfinished()] == [(2, 1)]


def test_another_network_has_no_twin(study: Study) -> None:
    trials = [study.ask() for _ in range(4)]
    for trial in trials:
        study.complete(trial.number, 0.9, 0.3)
    keys = {trial.config.key: trial.number for trial in reversed(trials)}
    for _ in range(4):
        asked = study.ask()
        assert asked.duplicate_of == keys.get(asked.config.key)


def row(number: int, value: float | None, loss: float | None = 0.3, state: str = "complete") -> TrialRow:
    return TrialRow(number, state, value, loss, {}, 1, 1.0, "")


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row(0, 0.8), row(1, 0.9), row(2, 0.7)], 1),
        ([row(0, 0.9, 0.3), row(1, 0.9, 0.2), row(2, 0.9, 0.25)], 1),
        ([row(0, 0.9, 0.2), row(1, 0.9, 0.2)], 0),
        ([row(0, 0.95, state="pruned"), row(1, 0.96, state="running"), row(2, 0.9)], 2),
        ([row(0, 0.95, state="pruned"), row(1, None, state="failed")], None),
        ([], None),
    ],
    ids=["highest accuracy", "ties by loss", "then by number", "complete ones only", "none complete", "none"],
)
def test_the_best_trial(rows: list[TrialRow], best: int | None) -> None:
    found = best_row(rows)
    assert (None if found is None else found.number) == best


def test_the_best_trial_has_the_configuration_it_was_trained_with(study: Study) -> None:
    assert study.best() is None
    trials = [study.ask() for _ in range(5)]
    for trial in trials:
        study.complete(trial.number, 0.9 if trial.number == 3 else 0.8, 0.3)
    assert study.best() == trials[3]


def test_importances_wait_for_four_complete_trials(study: Study) -> None:
    for count in range(4):
        assert study.importances() == []
        study.prune(study.ask().number, "does not count")
        trial = study.ask()
        study.complete(trial.number, 0.5 + count / 10, 0.3)
    found = study.importances()
    assert {name for name, _ in found} <= set(SETTINGS.space.dimensions)
    assert found
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)


def test_importances_of_equal_trials_are_no_error(study: Study) -> None:
    for _ in range(5):
        study.complete(study.ask().number, 0.5, 0.3)
    assert all(math.isfinite(share) for _, share in study.importances())


# --- resuming ------------------------------------------------------------------------------------

TRIALS = 13
TORN = {3, 11}  # asked and reported once, when the driver is killed
BETWEEN = {0, 6, 10, 12}  # told, when the driver is killed


def objective(config: RunConfig) -> float:
    """A smooth function of everything that the default space varies."""
    rates = (config.conv_dropout - 0.1) ** 2 + (config.head_dropout - 0.3) ** 2
    return 0.5 + len(config.placement.value) / 100 - rates + config.batch_size / 5000


def train(study: Study, trial: Trial) -> Trial:
    """All there is to a trial, from its first report to its end."""
    value = objective(trial.config)
    for step in (1, 4):
        if study.report(trial.number, step, value * (step / 4)):
            study.prune(trial.number, "pruned")
            return trial
    study.complete(trial.number, value, 1 - value)
    return trial


def sweep(settings: StudySettings, url: str, torn: set[int], between: set[int]) -> tuple[list[Trial], list[TrialRow]]:
    """The trials of a whole sweep, whose driver is killed during and between the given ones."""
    trained: list[Trial] = []
    while True:
        with closing(open_study("demo", settings, url)) as study:
            trained += [train(study, trial) for trial in study.unfinished()]
            while study.finished() < TRIALS:
                trial = study.ask()
                if trial.number in torn:
                    study.report(trial.number, 1, objective(trial.config) / 4)
                    break
                trained.append(train(study, trial))
                if trial.number in between:
                    break
            else:
                return trained, [r._replace(seconds=None) for r in study.rows()]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_a_sweep_that_is_killed_and_continued_equals_an_unbroken_one(url: str, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler, seed=5)
    unbroken = sweep(settings, MEMORY, set(), set())
    assert sweep(settings, url, TORN, BETWEEN) == unbroken
    assert len({trial.config for trial in unbroken[0]}) > TRIALS / 2


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_another_seed_asks_other_trials(sampler: str) -> None:
    def first(seed: int) -> list[RunConfig]:
        with closing(open_study("demo", replace(SETTINGS, sampler=sampler, seed=seed), MEMORY)) as study:
            return [train(study, study.ask()).config for _ in range(3)]

    assert first(0) == first(0) != first(1)


def test_trials_are_resumed_as_they_were_asked_though_several_were_running(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        asked = [study.ask() for _ in range(3)]
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert list(study.unfinished()) == asked
        assert study.ask().number == 3


# --- trials that another program enqueued -----------------------------------------------------------


def enqueue(url: str, **params: Any) -> None:
    """What a user of Optuna does with our study."""
    storage = optuna.storages.RDBStorage(url)
    optuna.load_study(study_name="demo", storage=storage).enqueue_trial(params)
    storage.engine.dispose()


GIVEN = {"placement": "bn-dropout", "batch_size": 64, "conv_dropout": 0.25}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_an_enqueued_trial_comes_next_with_the_parameters_it_was_given(url: str, sampler: str) -> None:
    settings = replace(SETTINGS, sampler=sampler)
    with closing(open_study("demo", settings, url)) as study:
        train(study, study.ask())
    enqueue(url, **GIVEN)
    enqueue(url, placement="none")
    with closing(open_study("demo", settings, url)) as study:
        assert [row.state for row in study.rows()][1:] == ["waiting", "waiting"]
        first, second, third = study.ask(), study.ask(), study.ask()
        assert [trial.number for trial in (first, second, third)] == [1, 2, 3]
        assert {name: first.config.model_dump(mode="json")[name] for name in GIVEN} == GIVEN
        assert 0.05 <= first.config.head_dropout <= 0.6  # which it was not given
        assert second.config.placement.value == "none"
        ours = [vars(trial) | {"_trial_id": 0} for trial in study._optuna.get_trials()]
        assert [vars(trial) | {"_trial_id": 0} for trial in stored(url)] == ours
        study.complete(1, 0.9, 0.3)
    with closing(open_study("demo", settings, url)) as study:
        assert list(study.unfinished()) == [second, third]
        assert study.rows()[1].state == "complete"
        assert study.ask().number == 4


def test_a_driver_that_died_before_it_wrote_asks_the_enqueued_trial_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study("demo", SETTINGS, url).close()
    enqueue(url, placement="ic")
    asked: list[RunConfig] = []

    def dies(mirror: Any, _: int) -> None:
        asked.append(SETTINGS.space.suggest(SETTINGS.base, optuna.trial.FixedTrial(mirror.study.trials[0].params)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, closing(open_study("demo", SETTINGS, url)) as study:
        patch.setattr("sweeper.study.mirror.Mirror.taken", dies)
        with pytest.raises(KeyboardInterrupt):
            study.ask()
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert study.running() == 0
        assert [study.ask().config] == asked


def test_what_is_enqueued_while_a_driver_runs_stops_it_and_is_trained_by_the_next_one(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        train(study, study.ask())
        enqueue(url, placement="bn")
        assert "another process has written to it" in refusal(study.ask, StudyConflict)
    with closing(open_study("demo", SETTINGS, url)) as study:
        trial = train(study, study.ask())
        assert (trial.number, trial.config.placement.value) == (1, "bn")
        assert study.ask().number == 2


def test_an_enqueued_trial_that_another_process_has_taken_stops_the_sweep(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    enqueue(url, placement="bn")
    with closing(open_study("demo", SETTINGS, url)) as study:
        storage = optuna.storages.RDBStorage(url)
        assert optuna.load_study(study_name="demo", storage=storage).ask().number == 0
        storage.engine.dispose()
        assert "taken trial 0" in refusal(study.ask, StudyConflict)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"conv_dropout": 0.9}, "'conv_dropout=0.9', outside the search space: 0.02 to 0.4"),
        ({"conv_dropout": math.nan}, "'conv_dropout=nan', outside"),
        ({"conv_dropout": True}, "'conv_dropout=True', outside"),
        ({"batch_size": 48}, "'batch_size=48', outside the search space: one of 32, 64, 128, 256, 512"),
        ({"batch_size": 64.0}, "'batch_size=64.0', outside"),
        ({"lr": 0.1}, "'lr=0.1', which the search space does not have; it has placement, conv_dropout"),
        ({"<b>\n": [1]}, "'<b>\\n=[1]', which the search space does not have"),
    ],
    ids=["above", "nan", "boolean", "no-choice", "another-type", "not-varied", "markup"],
)  # fmt: skip
def test_an_enqueued_trial_outside_the_space_is_refused_once_and_named(
    url: str, params: dict[str, Any], says: str
) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        train(study, study.ask())
    enqueue(url, **params)
    enqueue(url, placement="bn")
    message = refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
    assert f"trial 1 was enqueued with {says}" in message
    assert "the same command goes on without it" in message
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert [row.state for row in study.rows()] == ["complete", "failed", "waiting"]
        assert study.rows()[1].reason.startswith("enqueued with ")
        assert (study.finished(), study.ask().number) == (1, 2)


def test_all_that_is_refused_is_refused_at_once(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    for _ in range(5):
        enqueue(url, batch_size=1)
    message = refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
    assert message.count("was enqueued with 'batch_size=1'") == 3
    assert "and 2 more" in message
    with closing(open_study("demo", SETTINGS, url)) as study:
        assert (study.failed(), study.ask().number) == (5, 5)


def test_a_trial_that_was_added_with_distributions_of_its_own_is_refused(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    storage = optuna.storages.RDBStorage(url)
    distribution = optuna.distributions.CategoricalDistribution([64, 128])
    added = optuna.create_trial(
        state=optuna.trial.TrialState.WAITING, params={"batch_size": 64}, distributions={"batch_size": distribution}
    )
    optuna.load_study(study_name="demo", storage=storage).add_trial(added)
    storage.engine.dispose()
    assert "enqueue_trial" in refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)


def test_quasi_random_points_cover_the_space_more_evenly_than_random_ones() -> None:
    space = Space({"conv_dropout": Range(0.0, 0.99), "head_dropout": Range(0.0, 0.99)})
    with closing(open_study("demo", replace(SETTINGS, space=space, sampler="qmc"), MEMORY)) as study:
        configs = [train(study, study.ask()).config for _ in range(17)][1:]  # the first one is random
    cells = {(int(c.conv_dropout / 0.99 * 4), int(c.head_dropout / 0.99 * 4)) for c in configs}
    assert len(cells) == 16  # a Sobol sequence puts one of 16 points into each of 4 x 4 cells


# --- watching ------------------------------------------------------------------------------------


def test_a_held_study_can_be_read(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.set_target(8, workers=2)
        train(study, study.ask())
        study.ask()
        view = read_study("demo", url)
        assert (view.name, view.target, view.workers) == ("demo", 8, 2)
        assert [r.state for r in view.rows] == ["complete", "running"]
        assert view.rows[0] == study.rows()[0]
    with closing(open_study("demo", SETTINGS, url)):
        pass  # whoever reads does not hold it


def test_reading_a_study_leaves_no_lock(tmp_path: Path, url: str) -> None:
    optuna.create_study(storage=url, study_name="demo", direction="maximize")
    read_study("demo", url)
    assert [path.name for path in tmp_path.iterdir()] == ["sweeper.db"]


def test_a_study_that_is_not_there_is_refused_with_those_that_are(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    assert "holds: demo" in refusal(lambda: read_study("other", url), UsageError)


def test_reading_a_file_that_is_not_there_creates_none(tmp_path: Path, url: str) -> None:
    assert "no such file" in refusal(lambda: read_study(None, url), UsageError)
    assert list(tmp_path.iterdir()) == []


# --- reading all of it ----------------------------------------------------------------------------


def test_a_record_holds_all_of_a_study(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        train(study, study.ask())
        study.ask()
        record = read_record(None, url)
        assert (record.name, record.uid, record.rows[0]) == ("demo", study.uid, study.rows()[0])
        assert record.settings["space.batch_size"] == SETTINGS.describe()["space.batch_size"]
        assert record.curves[0] == dict(study._optuna.trials[0].intermediate_values)
        assert record.began is not None
        assert record.ended is not None
        assert record.began <= record.ended


def test_a_study_without_trials_has_a_record() -> None:
    with closing(open_study("demo", SETTINGS, MEMORY)) as study:
        record = study.record()
    assert (record.rows, record.importances, record.began, record.ended) == ([], [], None, None)


def decided(count: int) -> optuna.Study:
    """A study whose accuracy is its `head_dropout`; `conv_dropout` decides nothing."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda t: t.suggest_float("head_dropout", 0, 1) + 0 * t.suggest_float("conv_dropout", 0, 1), count)
    return study


def test_importances_come_with_the_interval_of_their_resamples() -> None:
    found = importance_intervals(decided(60), resamples=40)
    assert [row.parameter for row in found] == ["head_dropout", "conv_dropout"]
    first, second = found
    assert first.low > second.high  # what decides all and what decides nothing are told apart
    assert 0 <= second.low <= second.high <= first.low <= first.high <= 1
    assert first.low < first.high
    assert importance_intervals(decided(60), resamples=40) == found


def test_few_trials_leave_importances_open() -> None:
    first, second = importance_intervals(decided(8), resamples=40)
    assert first.low < second.high  # the order is not settled
    assert importance_intervals(decided(3)) == []
