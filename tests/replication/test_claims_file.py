"""Claims files: what they say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sweeper.core.errors import UsageError
from sweeper.replication.article import Article, Reproduction
from sweeper.replication.articles import ARTICLES, choose_article
from sweeper.replication.claims.lines import parse_line
from sweeper.replication.claims.measures import ACCURACY, NLL
from sweeper.replication.claims.questions import (
    Question,
    Table,
    above,
    all_of,
    any_of,
    below,
    contrast,
    given,
    overfits,
)
from sweeper.replication.claims_file import read_claims
from tests.support.worlds import World

FILE: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "base": {"model": "small", "epochs": 6, "conv_dropout": 0.2},
    "arms": {
        "plain": {"placement": "none"},
        "bn": {"title": "BatchNorm alone", "placement": "bn"},
        "both": {"like": "bn", "placement": "bn-dropout", "head_dropout": 0.3},
    },
    "claims": [{"says": "BatchNorm helps", "if": "accuracy, bn - plain > 0"}],
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads the file with some keys replaced."""

    def article(**changes: Any) -> Article:
        path = tmp_path / "claims.yaml"
        path.write_text(yaml.safe_dump(FILE | changes, sort_keys=False))
        return read_claims(path)

    return article


def full(article: Article) -> Reproduction:
    return Reproduction(article, "full")


# --- arms and protocols ------------------------------------------------------------------------------------


def test_an_arm_has_the_fields_of_base_and_of_the_arm_that_it_is_like(read: Any) -> None:
    article = read()
    of = full(article)
    configs = {name: of.config(name, seed=3) for name in article.arms}
    assert {config.model for config in configs.values()} == {"small"}
    assert {(config.seed, config.epochs) for config in configs.values()} == {(3, 6)}
    rates = {name: (config.conv_dropout, config.head_dropout) for name, config in configs.items()}
    assert rates == {"plain": (0, 0), "bn": (0, 0), "both": (0.2, 0.3)}  # a rate of base is for those that use it
    assert [arm.title for arm in article.arms.values()] == [
        "placement none", "BatchNorm alone", "placement bn-dropout, head_dropout 0.3",
    ]  # fmt: skip
    assert (of.folder, of.options) == ("reproduce-mine-full", f"--claims {article.file}")


def test_an_arm_may_be_an_experiment_with_fields_changed(read: Any) -> None:
    arms = {"four": {"exp": 4}, "slow": {"exp": 4, "lr": 1e-4}}
    article = read(base={}, arms=arms, claims=[{"says": "x", "if": "accuracy, slow - four < 0"}])
    four, slow = (full(article).config(name, seed=0) for name in arms)
    assert (four.experiment, four.split, four.epochs, four.lr) == (4, "test", 20, 1e-3)
    assert slow == four.derive(lr=1e-4)


def test_a_quick_protocol_is_shorter_and_an_early_dropout_ends_at_the_same_share(read: Any) -> None:
    early = {"like": "both", "epochs": 30, "dropout_schedule": "early", "dropout_switch": 5}
    article = read(
        arms=FILE["arms"] | {"early": early, "few": {"placement": "none", "train_images": 500}},
        quick={"train_images": 600, "epochs": 12, "seeds": 3, "without": ["plain"]}, claims=[{"says": "x", "if":
        "accuracy, early - bn > 0"}],
    )  # fmt: skip
    quick = Reproduction(article, "quick")
    assert (quick.protocol.seeds, quick.select()) == (3, ["bn", "both", "early", "few"])
    assert quick.protocol.title == "at most 600 training images; 12 epochs"
    config = quick.config("early", seed=0)
    assert (config.epochs, config.dropout_switch, config.train_images) == (12, 2, 600)
    assert quick.config("few", seed=0).train_images == 500
    assert full(article).config("early", seed=0).dropout_switch == 5


def test_the_split_of_ones_own_claims_is_that_of_a_sweep(read: Any) -> None:
    assert full(read()).config("bn", seed=0).split == "holdout"


def test_a_network_of_ones_own_is_an_arm(read: Any, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("def build(images, layers): ...\n")
    arms = {"mine": {"model": f"{net}:build"}, "other": {"model": "small"}}
    article = read(base={"epochs": 2}, arms=arms, claims=[{"says": "x", "if": "accuracy, mine - other > 0"}])
    before = full(article).config("mine", seed=0)
    assert len(before.model_sha256) == 64
    net.write_text("def build(images, layers): return None\n")
    assert full(article).config("mine", seed=0).key != before.key  # a changed file is another network


# --- claims ------------------------------------------------------------------------------------------------


def of_claim(read: Any, claim: Any, **more: Any) -> Question:
    (found,) = full(read(claims=[{"says": "x", "if": claim, **more}])).claims()
    return found.question


ALL = {"all": ["accuracy, bn - plain > 0", "NLL, bn - plain < -0.01 nats"]}
BOTH = (above(ACCURACY, "bn", "plain"), below(NLL, "bn", "plain", -0.01))
SAME: dict[str, tuple[Any, Question]] = {
    "one arm": ("accuracy, bn > 94.5", above(ACCURACY, "bn", bound=0.945)),
    "points": ("accuracy, bn - plain > -0.3 points", above(ACCURACY, "bn", "plain", -0.003)),
    "nats": ("NLL, bn - plain < 0.01", below(NLL, "bn", "plain", 0.01)),
    "a sum": (
        "accuracy, both - 0.5 bn - 0.5 plain > 0",
        contrast(ACCURACY, {"both": 1.0, "bn": -0.5, "plain": -0.5}, "both - 0.5 bn - 0.5 plain", 1),
    ),
    "all": (ALL, all_of(*BOTH)),
    "any": ({"any": ALL["all"]}, any_of(*BOTH)),
    "nested": ({"any": ["accuracy, both > 94", ALL]}, any_of(above(ACCURACY, "both", bound=0.94), all_of(*BOTH))),
    "overfitting": ("NLL, last epoch - some earlier epoch, bn > 0", overfits("bn", 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_condition_asks_the_question_that_it_says(name: str, read: Any) -> None:
    condition, expected = SAME[name]
    found = of_claim(read, condition)
    runs = World().but("bn", accuracy=0.95, nll=0.2, dip=0.02).draw(FILE["arms"], 5, np.random.default_rng(0))
    assert (found.words, found.arms) == (expected.words, expected.arms)
    assert found.ask(Table(runs)).p == expected.ask(Table(runs)).p


def test_a_premise_withholds_a_verdict(read: Any) -> None:
    found = of_claim(read, "accuracy, bn - plain > 0", given="accuracy, both > 99")
    expected = given(above(ACCURACY, "both", bound=0.99), above(ACCURACY, "bn", "plain"))
    assert found.words == expected.words
    runs = World().but("bn", accuracy=0.97).draw(FILE["arms"], 5, np.random.default_rng(0))
    assert found.ask(Table(runs)).p == expected.ask(Table(runs)).p == (1.0, pytest.approx(1, abs=1e-3))


def test_times_are_compared_as_a_ratio() -> None:
    line = parse_line("seconds an epoch, bn / plain < 1.15")
    assert (line.ratio, line.weights, line.direction, line.bound) == (True, {"bn": 1, "plain": -1}, -1, 1.15)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accuracy", "is not MEASURE, ARM - ARM > BOUND"),
        ("accuracy, bn - plain", "is not MEASURE"),
        ("accuracy, bn - plain >= 0", "is not a number of points"),
        ("accuracy, bn - plain > 0 > 1", "is not MEASURE"),
        ("speed, bn - plain > 0", "unknown measure 'speed'; the measures are accuracy, NLL"),
        ("accuracy, bn-plain - > 0", "is not a sum of arms"),
        ("accuracy, bn plain > 0", "is not a sum of arms"),
        ("accuracy, bn - bn > 0", "arm 'bn' is there twice"),
        ("accuracy, bn - plain > much", "'much' is not a number of points"),
        ("accuracy, bn - plain > 1 nats", "'1 nats' is not a number of points"),
        ("accuracy, bn - plain > nan", "is not a number of points"),
        ("accuracy, bn / plain > 1", "is not a sum of arms"),
        ("seconds an epoch, bn - plain > 1", "compares two arms, such as 'first / second'"),
        ("NLL, last epoch - some earlier epoch, bn - plain > 0", "is asked of one arm"),
    ],
)
def test_a_line_that_asks_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_line(text)
    assert says in str(caught.value)


# --- what is refused ---------------------------------------------------------------------------------------

CLAIM = {"says": "x", "if": "accuracy, bn - plain > 0"}
BAD: dict[str, tuple[Any, str]] = {
    "no name": ({"name": None}, "name: "),
    "a name that is a path": ({"name": "../x"}, "name: string should match"),
    "no arms": ({"arms": {}}, "arms: "),
    "no claims": ({"claims": []}, "claims: "),
    "an unknown key": ({"claimz": []}, "claimz: unknown key"),
    "an unknown key of a claim": ({"claims": [CLAIM | {"than": "x"}]}, "claims.1.than: unknown key"),
    "a claim without a condition": ({"claims": [{"says": "x"}]}, "claims.1.if: field required"),
    "an empty all": ({"claims": [CLAIM | {"if": {"all": []}}]}, "claims.1.if: should be a line such as"),
    "a list for a value": ({"base": {"lr": [1, 2]}}, "base.lr: should be a number, a word"),
    "a wrong line": ({"claims": [CLAIM, CLAIM | {"if": "speed, bn > 0"}]}, "claim 2: unknown measure 'speed'"),
    "an unknown arm": ({"claims": [CLAIM | {"if": "accuracy, bn - no > 0"}]}, "claim 1: 'no' is not an arm; the arms"),
    "an unknown arm in a premise": ({"claims": [CLAIM | {"given": "accuracy, no > 0"}]}, "claim 1: 'no' is not an arm"),
    "an unknown field": ({"arms": FILE["arms"] | {"x": {"depth": 3}}}, "arm x, protocol full: unknown field 'depth'"),
    "a wrong value": ({"arms": FILE["arms"] | {"x": {"lr": -1}}}, "arm x, protocol full: lr='-1': should be greater"),
    "a rate that is not used": (
        {"arms": FILE["arms"] | {"x": {"placement": "bn", "head_dropout": 0.5}}},
        "placement bn has no Dropout in its head",
    ),
    "a field of the machine": ({"base": {"device": "cuda"}}, "arm plain: device is not a field of an arm"),
    "no experiment": ({"arms": FILE["arms"] | {"x": {"exp": 9}}}, "arm x: exp=9 is not an experiment"),
    "like nothing": ({"arms": FILE["arms"] | {"x": {"like": "y"}}}, "arm x: like='y' is not another arm"),
    "like itself": (
        {"arms": FILE["arms"] | {"x": {"like": "y"}, "y": {"like": "x"}}}, "is not another arm of the file",
    ),
    "two arms that are one": (
        {"arms": FILE["arms"] | {"bn2": {"placement": "bn-dropout", "conv_dropout": 0, "head_dropout": 0}}},
        "arms bn and bn2 are the same training",
    ),
    "other images": (
        {"arms": FILE["arms"] | {"x": {"placement": "bn", "split": "test"}}},
        "arm plain has split holdout and arm x test",
    ),
    "a folder of the journal": ({"arms": FILE["arms"] | {"study": {"placement": "ic"}}}, "Choose another"),
    "an arm that quick lacks": ({"quick": {"without": ["no"]}}, "quick: 'no' is not an arm"),
    "too many seeds": ({"seeds": 1_001}, "seeds: "),
    "words for seeds": ({"seeds": "five"}, "seeds: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(name: str, read: Any) -> None:
    changes, says = BAD[name]
    with pytest.raises(UsageError) as caught:
        read(**changes)
    message = str(caught.value)
    assert says in message
    assert "claims.yaml: " in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff", "not YAML"),
        (b"- a\n", "the file: "),
        (b"name: &a x\ntitle: *a\n", "aliases"),
        (b"name: !!python/object:os.system x\n", "tags"),
        (b"name: x\nname: y\n", "'name' is given twice"),
        (b"#" * 20_000, "larger than"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_bytes(text)
    with pytest.raises(UsageError, match=says):
        read_claims(tmp_path / "claims.yaml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        choose_article("learnopencv", tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ARTICLES)
def test_the_names_of_our_articles_are_taken(name: str, read: Any, tmp_path: Path) -> None:
    read(name=name)
    with pytest.raises(UsageError, match=f"name: {name} is an article of sweeper. Choose another name."):
        choose_article("learnopencv", tmp_path / "claims.yaml")
