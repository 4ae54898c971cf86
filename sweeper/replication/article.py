"""An article as data: its arms, the lengths at which they are trained, and its claims.

An arm is a configuration that a claim compares: one of the eight experiments, a variant of one, or one of its own. A
protocol sets the number of images, epochs and seeds of the arms. Every arm and seed is trained once, however many
claims use it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sweeper.core.config import MODELS, RunConfig, check_rates
from sweeper.core.experiments import EXPERIMENTS, experiment
from sweeper.sweep.networks import with_source

if TYPE_CHECKING:
    from sweeper.replication.claims.claim import Claim

ProtocolName = Literal["full", "quick", "quick-6"]
DEFAULT: Final = "learnopencv"


@dataclass(frozen=True)
class Arm:
    """An experiment of the LearnOpenCV article with `fields` in place of its own; `fields` alone if `base` is 0."""

    title: str
    base: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    length: int = 1  # multiplies the epochs of the protocol
    kept_in: str = ""  # the folder of its runs below that of the protocol; empty: its name

    @property
    def own_epochs(self) -> int:
        """The epochs that it has by itself."""
        default: int = EXPERIMENTS[self.base]["epochs"] if self.base else RunConfig.model_fields["epochs"].default
        return int(self.fields.get("epochs", default)) * self.length


@dataclass(frozen=True)
class Protocol:
    """The length of a reproduction; all else is as in the arms."""

    name: ProtocolName
    title: str
    seeds: int  # 0, 1, …
    train_images: int = 0  # 0: those of the arm
    epochs: int | None = None  # None: those of the arm
    without: frozenset[str] = frozenset()
    at_most: Mapping[str, int] = field(default_factory=dict)  # seeds of costly arms, unless a number is asked for
    instead: Mapping[str, str] = field(default_factory=dict)  # arms that stand for others, as when it was recorded
    kept_in: str = ""  # the folder of its runs, after `reproduce-`; empty: the label


@dataclass(frozen=True, eq=False)
class Article:
    """An article: what is trained, and what is judged.

    Attributes:
        name: by which the command line and the journal know it.
        short: how pages call it.
        source: where it was published.
        arms: in training order: the longest first, then arms that are compared next to each other.
        protocols: by their names; there is always `full`.
        ask: its claims, as a reproduction can judge them.
        declared: the sentence beside each table that says what the results hold for.
        choices: what we chose, and what differs from the article.
        contradictions: where the article contradicts itself.
        dataset: as `--dataset` takes it.
        file: the claims file that it was read from, if a user gave it.
    """

    name: str
    short: str
    source: str
    arms: Mapping[str, Arm]
    protocols: Mapping[ProtocolName, Protocol]
    ask: Callable[[Reproduction], tuple[Claim, ...]]
    declared: str
    choices: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    dataset: str = "auto"
    file: Path | None = None


@dataclass(frozen=True)
class Reproduction:
    """An article under one of its protocols."""

    article: Article
    name: ProtocolName

    @property
    def protocol(self) -> Protocol:
        """Its length."""
        return self.article.protocols[self.name]

    @property
    def label(self) -> str:
        """Its name in files: that of the protocol, after that of the article unless it is the default one."""
        return self.name if self.article.name == DEFAULT else f"{self.article.name}-{self.name}"

    @property
    def folder(self) -> str:
        """Its folder below the journal's root."""
        return f"reproduce-{self.protocol.kept_in or self.label}"

    @property
    def options(self) -> str:
        """The options by which a command names it."""
        if self.article.name == DEFAULT:
            return f"--protocol {self.name}"
        file = self.article.file
        named = f"--claims {shlex.quote(str(file))}" if file else f"--article {self.article.name}"
        return named + (f" --protocol {self.name}" if self.name != "full" else "")

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        return f"protocol {self.name}" if self.article.name == DEFAULT else f"{self.article.name}, protocol {self.name}"

    def claims(self) -> tuple[Claim, ...]:
        """Its claims."""
        return self.article.ask(self)

    def arm(self, name: str) -> Arm:
        """The arm of a name, or the one that stands for it."""
        return self.article.arms[self.protocol.instead.get(name, name)]

    def folder_of(self, name: str) -> str:
        """The folder of an arm's runs below the journal's root."""
        arm = self.protocol.instead.get(name, name)
        return f"{self.folder}/{self.article.arms[arm].kept_in or arm}"

    def select(self, experiments: Sequence[int] = (), only_experiments: bool = False) -> list[str]:
        """Return the arms to train, in order: those of these experiments (none: all), with or without variants."""
        return [
            name
            for name, arm in self.article.arms.items()
            if name not in self.protocol.without
            and (not experiments or arm.base in experiments)
            and not (only_experiments and name != f"exp{arm.base}")
        ]

    def train_images(self, arm: str) -> int:
        """The number of images that an arm is trained on; 0 for all."""
        counts = (self.protocol.train_images, int(self.arm(arm).fields.get("train_images", 0)))
        return min((count for count in counts if count), default=0)

    def config(self, arm: str, seed: int, **fields: Any) -> RunConfig:
        """The configuration of an arm with `seed`; `fields` are those that the machine and the data set decide.

        Where a protocol has its own number of epochs, an early or late Dropout switches at the same share of them.

        Raises:
            UsageError: a field is wrong, or the file of the arm's network is missing.
        """
        found = self.arm(arm)
        epochs = (self.protocol.epochs or 0) * found.length or found.own_epochs
        length: dict[str, Any] = {"epochs": epochs, "train_images": self.train_images(arm)}
        if switch := int(found.fields.get("dropout_switch", 0)):
            length["dropout_switch"] = min(max(1, round(switch * epochs / found.own_epochs)), max(1, epochs - 1))
        given = dict(found.fields) | length | {"seed": seed} | fields
        if found.base:
            config = experiment(found.base, **given)
        else:
            config = RunConfig.create(**given)
            check_rates(config, given)
        return config if config.model in MODELS else with_source(config)
