"""Open a study: create it, continue it, or refuse it."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import optuna
import pytest

from sweeper.core.errors import ConfigError, ServiceUnreachable, StudyConflict, SweeperError
from sweeper.core.metric import ACCURACY, LOSS
from sweeper.core.names import check_name
from sweeper.study.known import Known
from sweeper.study.opening import open_study
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Range, Space
from sweeper.study.study import Study, StudySettings
from tests.study.sweeps import SETTINGS, Killed, enqueue, other_program, train
from tests.support.optuna_store import stored
from tests.support.refusals import refusal

pytest_plugins = ["tests.support.postgres"]


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


# --- continued, or not ----------------------------------------------------------------------------


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
        ({"seed": 1}, "seed was 0, is 1"),
        ({"seed": 1, "base": SETTINGS.base.derive(seed=1)}, "seed was 0, is 1"),
        ({"metric": "val/ece"}, "direction was 'maximize val/accuracy', is 'minimize val/ece'"),
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
    assert "was not created by sweeper" in refusal(lambda: open_study("theirs", SETTINGS, url), StudyConflict)
    assert (len(theirs.trials), theirs.user_attrs) == (1, {})


def test_a_study_that_was_created_but_not_yet_described_is_taken_over(url: str) -> None:
    optuna.create_study(storage=url, study_name="demo", direction="maximize")  # killed before it went on
    open_study("demo", SETTINGS, url).close()
    message = refusal(lambda: open_study("demo", replace(SETTINGS, sampler="gp"), url), StudyConflict)
    assert "sampler was 'tpe', is 'gp'" in message


def test_a_study_goes_on_with_the_metric_that_it_was_made_with(url: str) -> None:
    auto, loss = replace(SETTINGS, metric="auto"), replace(SETTINGS, metric="val/loss")
    open_study("demo", loss, url).close()
    for same in (auto, loss):
        with closing(open_study("demo", same, url)) as study:
            assert (study.continued, study.metric) == (True, LOSS)
            assert study.settings == StudySettings.read(study.record().settings)
    with other_program(url) as theirs:
        assert theirs.direction.name == "MINIMIZE"
        assert theirs.user_attrs["settings"]["direction"] == "minimize val/loss"
    message = refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
    assert "(direction was 'minimize val/loss', is 'maximize val/accuracy')" in message
    with closing(open_study("new", auto, url)) as study:
        assert study.metric == ACCURACY


def test_a_study_of_an_unknown_metric_is_refused_with_those_that_are_known(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    with other_program(url) as theirs:
        theirs.set_user_attr("settings", theirs.user_attrs["settings"] | {"direction": "minimize val/f1"})
    for metric in ("auto", "val/accuracy"):
        message = refusal(
            lambda metric=metric: open_study("demo", replace(SETTINGS, metric=metric), url), StudyConflict
        )
        assert "val/accuracy, val/loss, val/ece" in message


def test_two_studies_have_different_identities(url: str) -> None:
    with closing(open_study("one", SETTINGS, url)) as one, closing(open_study("two", SETTINGS, url)) as two:
        assert one.uid != two.uid


# --- one driver at a time ------------------------------------------------------------------------


def test_a_held_study_whose_holder_is_unknown_is_refused_all_the_same(tmp_path: Path, url: str) -> None:
    with filelock.FileLock(tmp_path / "sweeper.db.demo.lock"):
        assert "by another process" in refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)


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
    urls = [new() if new else f"sqlite:///{tmp_path / str(n)}.db" for n in range(4)]
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


# --- known configurations, which are enqueued -------------------------------------------------------

ROWS = [Known("row 1", {"placement": "bn"}), Known("row 2", {"placement": "bn-dropout", "conv_dropout": 0.1}),
        Known("row 3", {"placement": "none", "batch_size": 64}), Known("row 4", {"placement": "bn"})]  # fmt: skip


def known_of(study: Study) -> list[tuple[str, str]]:
    """Who enqueued a trial, and its placement."""
    return [(trial.user_attrs.get("enqueued", ""), trial.params.get("placement", "")) for trial in study.trials()]


def test_known_configurations_are_trained_first_and_enqueued_once(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url, known=ROWS[:2])) as study:
        assert study.waiting() == 2
        assert train(study, study.ask()).config.placement == "bn"
    with closing(open_study("demo", SETTINGS, url, known=ROWS)) as study:
        assert study.waiting() == 2  # the second, which is waiting, and the third; the fourth is as the first
        for _ in range(3):
            train(study, study.ask())
        assert known_of(study)[:3] == [("row 1", "bn"), ("row 2", "bn-dropout"), ("row 3", "none")]
        assert known_of(study)[3][0] == ""
    with closing(open_study("demo", SETTINGS, url, known=ROWS)) as study:
        assert study.waiting() == 0


def test_a_configuration_that_the_study_has_trained_is_not_enqueued(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        trial = train(study, study.ask())
        params = study.trials()[trial.number].params
    with closing(open_study("demo", SETTINGS, url, known=[Known("", params), Known("", {"placement": "ic"})])) as study:
        assert study.waiting() == 1


def test_a_driver_may_die_between_any_two_of_them(tmp_path: Path, killed_at: Callable[[int], None]) -> None:
    """The next one trains each once, in their order."""
    settings = replace(SETTINGS, sampler="random")
    open_study("another", settings, f"sqlite:///{tmp_path / 'tables.db'}").close()

    def swept(url: str) -> tuple[list[tuple[str, str]], int]:
        with closing(open_study("demo", settings, url, known=ROWS)) as study:
            while study.finished() < 4:
                train(study, study.ask())
            return known_of(study), study.waiting()

    def prepared(name: str) -> str:
        return f"sqlite:///{shutil.copy(tmp_path / 'tables.db', tmp_path / name)}"

    unbroken = swept(prepared("unbroken"))
    assert [source for source, _ in unbroken[0]] == ["row 1", "row 2", "row 3", ""]
    begun: set[int | None] = set()
    for nth in range(1, 1_000):
        url = prepared(str(nth))
        killed_at(nth)
        try:
            open_study("demo", settings, url, known=ROWS).close()
        except Killed:
            begun.add(len(stored(url)) if "demo" in optuna.get_all_study_names(url) else None)
            assert swept(url) == unbroken, nth
        else:
            break
    assert begun == {None, 0, 1, 2, 3}  # how many were enqueued when it died


# --- trials that another program enqueued, and that are refused -------------------------------------


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"conv_dropout": 0.9}, "'conv_dropout=0.9', which is not in the search space; use 0.02 to 0.4"),
        ({"conv_dropout": math.nan}, "'conv_dropout=nan', which is not in the search space"),
        ({"conv_dropout": True}, "'conv_dropout=True', which is not in the search space"),
        ({"batch_size": 48}, "'batch_size=48', which is not in the search space; use one of 32, 64, 128, 256, 512"),
        ({"batch_size": 64.0}, "'batch_size=64.0', which is not in the search space"),
        ({"lr": 0.1}, "'lr=0.1', which is not in the search space; its dimensions are placement, conv_dropout"),
        ({"<b>\n": [1]}, "'<b>\\n=[1]', which is not in the search space"),
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
    assert "Run the same command again to go on without them" in message
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
    distribution = optuna.distributions.CategoricalDistribution([64, 128])
    added = optuna.create_trial(
        state=optuna.trial.TrialState.WAITING, params={"batch_size": 64}, distributions={"batch_size": distribution}
    )
    with other_program(url) as study:
        study.add_trial(added)
    assert "enqueue_trial" in refusal(lambda: open_study("demo", SETTINGS, url), StudyConflict)
