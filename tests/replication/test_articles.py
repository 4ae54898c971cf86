"""The articles of sweeper, as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sweeper.cli import options
from sweeper.core.config import RunConfig
from sweeper.core.errors import UsageError
from sweeper.replication.article import Reproduction
from sweeper.replication.articles import ARTICLES, find_article, reproduction, under
from tests.replication.conftest import Command
from tests.replication.drawn import QUICK, WORLD, written

OTHERS = [name for name in ARTICLES if name != "learnopencv"]
others = pytest.mark.parametrize("name", OTHERS)


def configs(name: str) -> dict[str, RunConfig]:
    """The configuration of each arm under protocol full."""
    of = reproduction(name)
    return {arm: of.config(arm, seed=0) for arm in of.select()}


def changed(one: RunConfig, other: RunConfig) -> set[str]:
    """The fields in which two configurations differ."""
    return {name for name, value in one.model_dump().items() if getattr(other, name) != value}


def test_the_command_line_knows_every_article() -> None:
    assert options.ARTICLES == ARTICLES
    assert set(ARTICLES) >= {"learnopencv", "kim2023", "liu2023"}


@others
def test_an_article_says_where_it_is_from_what_we_chose_and_which_section_makes_each_claim(name: str) -> None:
    article = find_article(name)
    assert "arXiv" in article.source
    assert len(article.choices) >= 2
    assert set(article.protocols) == {"full", "quick"}
    for protocol in article.protocols:
        of = under(article, protocol)
        for claim in of.claims():
            assert claim.section or claim.says.startswith("Premise: "), claim
            assert set(claim.question.arms) <= set(of.select()), claim


def test_each_article_has_a_folder_of_its_own_and_only_that_of_the_first_is_without_its_name() -> None:
    folders = [under(find_article(name), protocol).folder for name in ARTICLES for protocol in ("full", "quick")]
    assert len(set(folders)) == len(folders)
    assert folders[:2] == ["reproduce-full", "reproduce-quick-30"]
    assert all(folder.startswith(f"reproduce-{name}-") for name in OTHERS for folder in folders if name in folder)


def test_kims_arms_differ_from_the_plain_one_in_the_place_of_dropout_alone() -> None:
    found = configs("kim2023")
    plain = found.pop("none")
    assert (plain.model, plain.placement) == ("resnet20", "bn")
    assert {name: (arm.placement.value, arm.conv_dropout > 0, arm.head_dropout > 0) for name, arm in found.items()} == {
        "last": ("bn-dropout-last", True, False), "every": ("bn-dropout", True, False),
        "before": ("dropout-bn", True, False), "add": ("bn-dropout-add", True, False),
        "head-before": ("bn-pool-dropout", False, True), "head-after": ("bn-head-dropout", False, True),
        "both": ("bn-dropout-last", True, True),
    }  # fmt: skip
    assert all(changed(plain, arm) <= {"placement", "conv_dropout", "head_dropout"} for arm in found.values())
    assert changed(found["head-before"], found["head-after"]) == {"placement"}


def test_lius_regimes_hold_three_networks_that_differ_in_dropout_alone() -> None:
    found = configs("liu2023")
    for network, scheduled in (("small", "early"), ("medium", "late")):
        plain, constant, switched = (found[f"{network}-{kind}"] for kind in ("none", "constant", scheduled))
        assert changed(plain, constant) == {"placement", "conv_dropout", "head_dropout"}
        assert changed(constant, switched) == {"dropout_schedule", "dropout_switch"}
        assert (switched.dropout_switch, switched.epochs) == (5, 30)
    assert (found["small-none"].train_images, found["medium-none"].train_images) == (0, 12_000)


def test_the_runs_of_one_article_are_not_those_of_another(tmp_path: Path, sweeper: Command) -> None:
    written(tmp_path, WORLD.draw(["exp1"], 3, np.random.default_rng(0)), ["exp1"], QUICK)
    code, _, err = sweeper("verify", "--article", "kim2023", "--protocol", "quick")
    assert (code, err) == (
        1,
        f"error: {tmp_path}/journal holds no finished run of kim2023, protocol quick. "
        "Run sweeper reproduce --article kim2023 --protocol quick.\n",
    )


@others
def test_an_article_is_judged_and_reported_by_its_name(name: str, tmp_path: Path, sweeper: Command) -> None:
    of = reproduction(name)
    written(tmp_path, WORLD.draw(of.select(), 3, np.random.default_rng(0)), of.select(), of)
    code, out, err = sweeper("verify", "--article", name)
    assert (code, err) == (0, "")
    folder = tmp_path / f"report/{name}-full"
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.html", "ledger.json", "ledger.md", "ledger.png"]
    text = (folder / "ledger.md").read_text()
    assert text.startswith(f"# {of.article.short}: {len(of.claims())} claims, protocol full\n")
    assert all(choice in text for choice in of.article.choices)
    assert "LearnOpenCV" not in text
    assert f"over the {2 * len(of.claims())} p-values" in text
    code, out, _ = sweeper("report", "--replication", "--article", name)
    assert code == 0, out
    page = (tmp_path / f"report/reproduce-{name}-full.html").read_text()
    assert all(section in page for section in ("Verdicts", "What we chose", "All arms", "Curves"))
    assert "Figures 4 to 11" not in page


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("reproduce", "--article", "kim2023", "--exp", "1"), "--exp chooses among the arms of learnopencv"),
        (("reproduce", "--article", "kim"), "'kim' is not one of 'learnopencv'"),
        (("verify", "--article", "kim2023", "--claims", "x.yaml"), "--article names an article, and --claims another"),
        (("report", "--article", "kim2023"), "--article is only for sweeper report --replication"),
    ],
)
def test_what_is_refused(argv: tuple[str, ...], says: str, sweeper: Command) -> None:
    code, _, err = sweeper(*argv)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_protocol_that_an_article_lacks_is_refused() -> None:
    article = find_article("kim2023")
    short = Reproduction(article, "full").article
    assert under(short, "quick").name == "quick"
    with pytest.raises(UsageError, match="has no protocol slow"):
        under(short, "slow")  # type: ignore[arg-type]
