"""Claims files: an article, or a question of one's own, as YAML (docs/how-to/claims.md).

The file is read by the safe loader, of limited size and without aliases, and checked whole: every line of its claims,
and the configuration of every arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sweeper.core.config import PLACES, Placement, RunConfig
from sweeper.core.errors import ConfigError, UsageError
from sweeper.core.experiments import EXPERIMENTS
from sweeper.replication.article import Arm, Article, Protocol, ProtocolName, Reproduction
from sweeper.replication.claims.claim import Claim
from sweeper.replication.claims.lines import ARM, parse_line
from sweeper.study.space_file import parse_yaml, read_small

MOST_SEEDS: Final = 1_000
MOST_ARMS: Final = 200
MOST_CLAIMS: Final = 100
DECIDED: Final = (  # fields that the command, the protocol or the machine decides
    "experiment", "seed", "device", "precision", "dataset", "dataset_sha256", "image_size", "model_args",
    "model_sha256", "folds",
)  # fmt: skip
OWN: Final = ("title", "exp", "like")  # keys of an arm that are no fields of a configuration
TAKEN: Final = ("study",)  # folders that the journal has beside the arms

SCALAR: Final = "should be a number, a word, or true or false"
CONDITION: Final = "should be a line such as 'accuracy, first - second > 0', or all or any with a list of them"
KINDS: Final = {"bool": SCALAR, "int": SCALAR, "float": SCALAR, "str": SCALAR} | dict.fromkeys(
    ("constrained-str", "AllOf", "AnyOf"), CONDITION
)

Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,49}$")]
ArmName = Annotated[str, StringConstraints(pattern=rf"^{ARM}$")]
Value = bool | int | float | str
Fields = dict[str, Value]
Seeds = Annotated[int, Field(ge=1, le=MOST_SEEDS)]


class Part(BaseModel):
    """A part of the file, without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)


class AllOf(Part):
    """Conditions that all have to hold."""

    all: Annotated[list[ConditionPart], Field(min_length=1)]


class AnyOf(Part):
    """Conditions of which one has to hold."""

    any: Annotated[list[ConditionPart], Field(min_length=1)]


ConditionPart = Text | AllOf | AnyOf


class ClaimPart(Part):
    """A claim, and the condition under which it is supported."""

    says: Text
    when: ConditionPart = Field(alias="if")
    given: ConditionPart | None = None
    section: str = ""
    notes: list[Text] = []


class QuickPart(Part):
    """The shorter protocol."""

    seeds: Seeds | None = None
    train_images: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None
    without: list[ArmName] = []


class ClaimsFile(Part):
    """A claims file."""

    name: Name
    title: Text
    source: Text = "A claims file"
    dataset: Text = "auto"
    seeds: Seeds = 5
    choices: list[Text] = []
    base: Fields = {}
    arms: Annotated[dict[ArmName, Fields], Field(min_length=1, max_length=MOST_ARMS)]
    claims: Annotated[list[ClaimPart], Field(min_length=1, max_length=MOST_CLAIMS)]
    quick: QuickPart | None = None


def read_claims(path: Path, *, ours: bool = False) -> Article:
    """Read an article from a claims file; `ours` for those of the package.

    Raises:
        UsageError: the file is missing, too large, not YAML, or no claims file; one line.
    """
    content = parse_yaml(path, read_small(path))
    try:
        found = ClaimsFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error)}") from None
    try:
        return _article(found, None if ours else path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _article(file: ClaimsFile, path: Path | None) -> Article:
    arms = {name: _arm(file, name) for name in file.arms}
    article = Article(
        name=file.name,
        short=file.title,
        source=file.source,
        arms=arms,
        protocols=_protocols(file),
        ask=lambda of: tuple(_claim(number, part, of) for number, part in enumerate(file.claims, 1)),
        declared=f"Under the configurations that the claims file {file.name} declares.",
        choices=tuple(file.choices),
        dataset=file.dataset,
        file=path,
    )
    for number, claim in enumerate(file.claims, 1):
        _check_claim(number, claim, arms)
    for name in article.protocols:
        _check_arms(Reproduction(article, name))
    return article


def _arm(file: ClaimsFile, name: str) -> Arm:
    """The arm of a name: the fields of the file's base, of the arm that it is like, and its own."""
    fields = file.base | _fields(file, name)
    if wrong := [key for key in fields if key in DECIDED]:
        raise ConfigError(f"arm {name}: {wrong[0]} is not a field of an arm. Leave it out.")
    if name in TAKEN:
        raise ConfigError(f"arm {name}: the journal has a folder of this name. Choose another.")
    base = fields.get("exp", 0)
    if isinstance(base, bool) or base not in range(9):
        raise ConfigError(f"arm {name}: exp={base!r:.20} is not an experiment of 1 to 8")
    own = {key: value for key, value in fields.items() if key not in OWN}
    for key in _unused(own, int(base)) - file.arms[name].keys():
        own.pop(key, None)
    differs = {key: value for key, value in own.items() if key in file.arms[name]}
    title = fields["title"] if "title" in file.arms[name] else ", ".join(f"{k} {v}" for k, v in differs.items())
    return Arm(str(title) or name, int(base), own)


def _unused(fields: Fields, base: int) -> set[str]:
    """The fields of Dropout that an arm does not use, and so does not inherit."""
    default = RunConfig.model_fields["placement"].default.value
    placement = fields.get("placement", EXPERIMENTS[base]["placement"] if base else default)
    if placement not in list(Placement):  # the configuration refuses it
        return set()
    unused = {key for key in (*PLACES, "dropout_schedule") if not Placement(placement).uses(key)}
    switches = "dropout_schedule" not in unused and fields.get("dropout_schedule") in ("early", "late")
    return unused if switches else unused | {"dropout_switch"}


def _fields(file: ClaimsFile, name: str, above: tuple[str, ...] = ()) -> Fields:
    fields = file.arms[name]
    like = fields.get("like")
    if like is None:
        return fields
    if like not in file.arms or like in (*above, name):
        raise ConfigError(f"arm {name}: like={like!r:.60} is not another arm of the file")
    return _fields(file, str(like), (*above, name)) | fields


def _protocols(file: ClaimsFile) -> dict[ProtocolName, Protocol]:
    protocols: dict[ProtocolName, Protocol] = {"full": Protocol("full", "as its arms are declared", seeds=file.seeds)}
    if quick := file.quick:
        told = [f"at most {quick.train_images:,} training images"] if quick.train_images else []
        told += [f"{quick.epochs} epochs"] if quick.epochs else []
        protocols["quick"] = Protocol(
            "quick", "; ".join(told) or "fewer arms or seeds", seeds=quick.seeds or file.seeds,
            train_images=quick.train_images or 0, epochs=quick.epochs, without=frozenset(quick.without),
        )  # fmt: skip
    return protocols


# --- what is checked -------------------------------------------------------------------------------------


def _lines(condition: ConditionPart) -> Iterator[str]:
    """The lines of a condition."""
    match condition:
        case str():
            yield condition
        case AllOf(all=parts) | AnyOf(any=parts):
            for part in parts:
                yield from _lines(part)


def _check_claim(number: int, claim: ClaimPart, arms: Mapping[str, Arm]) -> None:
    for text in (*_lines(claim.when), *(_lines(claim.given) if claim.given else ())):
        try:
            named = parse_line(text).weights
        except ValueError as error:
            raise ConfigError(f"claim {number}: {error}") from None
        if unknown := [arm for arm in named if arm not in arms]:
            raise ConfigError(f"claim {number}: {unknown[0]!r} is not an arm; the arms are {', '.join(arms)}")


def _check_arms(of: Reproduction) -> None:
    """Refuse wrong configurations, two arms with one, and arms that are judged on different images."""
    known: dict[str, str] = {}
    splits: dict[str, str] = {}
    if unknown := of.protocol.without - of.article.arms.keys():
        raise ConfigError(f"quick: {min(unknown)!r} is not an arm; the arms are {', '.join(of.article.arms)}")
    for name in of.select():
        try:
            config = of.config(name, seed=0)
        except ConfigError as error:
            raise ConfigError(f"arm {name}, protocol {of.name}: {error}") from None
        if known.setdefault(config.key, name) != name:
            raise ConfigError(f"arms {known[config.key]} and {name} are the same training. Leave one of them out.")
        splits.setdefault(config.split, name)
    if len(splits) > 1:
        first, second = list(splits)[:2]
        raise ConfigError(
            f"arm {splits[first]} has split {first} and arm {splits[second]} {second}: runs on different images cannot "
            "be compared. Give base one split."
        )


# --- claims ----------------------------------------------------------------------------------------------


def _claim(number: int, part: ClaimPart, of: Reproduction) -> Claim:
    """Return the claim with its question; imported here, as its tests load scipy, which training does not need."""
    from sweeper.replication.claims.conditions import question
    from sweeper.replication.claims.questions import given

    asked = question(_plain(part.when), of)
    if part.given is not None:
        asked = given(question(_plain(part.given), of), asked)
    return Claim(number, part.says, asked, tuple(part.notes), section=part.section)


def _plain(condition: ConditionPart) -> Any:
    return condition if isinstance(condition, str) else condition.model_dump()


def _explain(error: ValidationError) -> str:
    """Say in one clause which part of the file is wrong."""
    first = error.errors(include_url=False)[0]
    parts, reason = list(first["loc"]), first["msg"][0].lower() + first["msg"][1:]
    if kinds := [part for part in parts if part in KINDS]:  # which of the kinds of value it is not
        parts = parts[: parts.index(kinds[0])]
        reason = KINDS[str(kinds[0])]
    where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in parts)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where or 'the file'}: {reason.replace('input should', 'should')}"
