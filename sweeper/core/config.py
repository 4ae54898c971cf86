"""`RunConfig`: one run is one immutable, validated value.

It holds everything that decides what a run computes. Its fields are the parameters that MLflow shows, and
`RunConfig.from_params` rebuilds a run from them exactly.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ValidationInfo

from sweeper.core.dataset import FASHION, MAX_SIDE, MIN_SIDE, check_dataset, is_folder
from sweeper.core.errors import ConfigError
from sweeper.core.own_code import FUNCTION
from sweeper.core.placements import LAYERED as LAYERED
from sweeper.core.placements import PLACES as PLACES
from sweeper.core.placements import PLAIN as PLAIN
from sweeper.core.placements import Placement as Placement

MAX_IMAGES: Final = 1_000_000_000  # more than fit into memory; `data.splits` compares with the true number
MAX_EPOCHS: Final = 10_000
FORMER_SPLIT: Final = "blog"
DEVICE: Final = r"(cpu|cuda(:\d{1,3})?)"
MODELS: Final = ("small", "medium", "large", "resnet20")
RESIDUAL: Final = ("resnet20",)  # those of residual blocks
ARGUMENT: Final = "model."  # before the name of an argument of the network's factory, among parameters
LATER: Final = (  # fields added after the first recorded runs
    "train_images", "model_args", "model_sha256", "dropout_schedule", "dropout_switch", "dataset_sha256", "image_size",
)  # fmt: skip


Argument = bool | int | float | str
Rate = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


class RunConfig(BaseModel):
    """Everything that decides what one run computes."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    experiment: int = Field(0, ge=0, le=8, description="Experiment of the article, 1-8; 0: none of them.")
    model: str = Field(
        "medium",
        description="Network: small, medium, large, resnet20, or your own factory, package.module:function or "
        "file.py:function.",
    )
    model_args: tuple[tuple[str, Argument], ...] = Field(
        (), description="Arguments for the network's factory: names and values."
    )
    model_sha256: str = Field("", description="SHA-256 of the factory's file; empty for built-in networks.")
    placement: Placement = Field(Placement.BN_DROPOUT, description="Placement of BatchNorm and Dropout.")
    conv_dropout: Rate = Field(
        0.1,
        description="Dropout rate in the convolutional part, the probability of zeroing, in [0, 1); "
        "0 where the placement has none there.",
    )
    head_dropout: Rate = Field(
        0.3,
        description="Dropout rate in the head, in [0, 1); 0 where the placement has none there.",
    )
    augmentation: Literal["none", "crop", "crop-flip", "crop-flip-erase"] = Field(
        "none",
        description="Training images. crop: random shift by up to 2 pixels for sides of 28, else an eighth of the "
        "side, with black borders; flip: also mirror half of them; erase: also black out a rectangle of 1.5 to 35 % in "
        "half of them.",
    )
    epochs: int = Field(10, ge=1, le=MAX_EPOCHS, description="Passes over the training images.")
    dropout_schedule: Literal["constant", "early", "late"] = Field(
        "constant",
        description="Epochs with Dropout: all, only the first dropout_switch (early), or only those after (late).",
    )
    dropout_switch: int = Field(
        0, ge=0, le=MAX_EPOCHS, description="Epoch after which an early or late Dropout schedule switches, else 0."
    )
    batch_size: int = Field(128, ge=1, le=MAX_IMAGES, description="Images per optimizer step.")
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="AdamW's decoupled decay of weight matrices and kernels."
    )
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        "constant", description="Learning-rate schedule, per step."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds the weights, data order, augmentation and Dropout masks.")
    dataset: str = Field(
        "fashion-mnist", description="Images, as --dataset takes them: a name, folder:DIR, FILE.npz or a function."
    )
    dataset_sha256: str = Field("", description="SHA-256 of the images; empty for fashion-mnist and sample.")
    image_size: int = Field(
        0, ge=0, le=MAX_SIDE, description="Side to which pictures of a folder are resized; 0: their most frequent size."
    )
    split: Literal["test", "holdout", "folds"] = Field(
        "holdout",
        description="test: train on all training images and validate on the test images, as the article does; "
        "holdout: hold out stratified training images; folds: stratified cross-validation.",
    )
    folds: int = Field(0, ge=0, le=100, description="Number of folds when split is folds, else 0.")
    train_images: int = Field(
        0,
        ge=0,
        le=MAX_IMAGES,
        description="Number of training images to use, after the split: stratified, the same for every seed; 0: all.",
    )
    device: str = Field("cpu", pattern=f"^{DEVICE}$", description="cpu, cuda, or cuda:N.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of convolutions and matrix products.")

    @field_validator("split", mode="before")
    @classmethod
    def _present_name(cls, split: Any) -> Any:
        """Accept `blog`, which 0.1.0 called the split `test`."""
        return "test" if split == FORMER_SPLIT else split

    @field_validator("dataset")
    @classmethod
    def _images(cls, dataset: str) -> str:
        return check_dataset(dataset)

    @field_validator("dataset_sha256")
    @classmethod
    def _empty_for_fashion(cls, sha256: str, info: ValidationInfo) -> str:
        """Leave out the SHA-256 of images that never change, so that runs recorded without it are recognised."""
        return "" if info.data.get("dataset") in FASHION else sha256

    @field_validator("image_size")
    @classmethod
    def _of_a_folder(cls, side: int, info: ValidationInfo) -> int:
        if side and not is_folder(info.data.get("dataset", "folder:refused")):
            raise ValueError(f"image_size={side}: only pictures of folder:DIR can be resized; leave it out")
        if side in range(1, MIN_SIDE):
            raise ValueError(f"image_size={side}: use {MIN_SIDE} to {MAX_SIDE} pixels")
        return side

    @field_validator("model_args", mode="before")
    @classmethod
    def _by_name(cls, arguments: Any) -> Any:
        """Accept a mapping, and put the arguments in the order of their names."""
        try:
            return tuple(sorted(dict(arguments).items()))
        except (TypeError, ValueError):  # neither a mapping nor pairs: the type says so
            return arguments

    @field_validator("model")
    @classmethod
    def _network(cls, model: str) -> str:
        if model not in MODELS and not FUNCTION.fullmatch(model):
            known = ", ".join(MODELS)
            raise ValueError(f"model={model[:60]!r}: use {known}, package.module:function or file.py:function")
        return model

    @field_validator("model_args")
    @classmethod
    def _of_a_factory(
        cls, arguments: tuple[tuple[str, Argument], ...], info: ValidationInfo
    ) -> tuple[tuple[str, Argument], ...]:
        model = info.data.get("model", "")
        if model in MODELS and arguments:
            name, value = arguments[0]
            why = f"model {model} takes no arguments; leave it out, or name a factory"
            raise ValueError(f"{ARGUMENT}{name}={value!r:.60}: {why}")
        return arguments

    @field_validator("model_sha256")
    @classmethod
    def _empty_for_ours(cls, digest: str, info: ValidationInfo) -> str:
        return "" if info.data.get("model") in MODELS else digest

    @field_validator("placement")
    @classmethod
    def _as_the_network_has(cls, placement: Placement, info: ValidationInfo) -> Placement:
        model = info.data.get("model", "")
        if model in MODELS and placement not in placements_of(model):
            why = "has no residual blocks" if placement.is_residual else "is not your own factory"
            raise ValueError(f"placement={placement.value}: model {model} {why}; use {', '.join(placements_of(model))}")
        return placement

    @field_validator("dropout_schedule")
    @classmethod
    def _constant_where_absent(cls, schedule: str, info: ValidationInfo) -> str:
        """Return constant where the placement has no Dropout, so that one network has one description."""
        placement = info.data.get("placement")
        return schedule if placement is None or placement.uses("dropout_schedule") else "constant"

    @field_validator("dropout_switch")
    @classmethod
    def _as_the_schedule_needs(cls, switch: int, info: ValidationInfo) -> int:
        """Set the epoch to 0 where nothing switches."""
        schedule, epochs = info.data.get("dropout_schedule"), info.data.get("epochs", MAX_EPOCHS)
        if schedule in ("early", "late") and not 0 < switch < epochs:
            raise ValueError(f"dropout_switch={switch}: dropout_schedule={schedule} needs 1 to epochs - 1")
        return 0 if schedule == "constant" else switch

    @field_validator("conv_dropout", "head_dropout")
    @classmethod
    def _zero_where_absent(cls, rate: float, info: ValidationInfo) -> float:
        """Set a rate that the placement does not use to 0, so that one network has one description."""
        placement = info.data.get("placement")
        if placement is None:  # the placement itself was refused
            return rate
        return rate if placement.uses(info.field_name) else 0.0

    @field_validator("conv_dropout", "head_dropout", "weight_decay")
    @classmethod
    def _no_negative_zero(cls, value: float) -> float:
        return value + 0.0

    # A validator sees the fields above its own in `info.data`, without those that were refused: so one pass of
    # pydantic finds the fields that are wrong and those that do not fit together.

    @field_validator("batch_size")
    @classmethod
    def _enough_for_batch_norm(cls, size: int, info: ValidationInfo) -> int:
        placement = info.data.get("placement")
        if size == 1 and placement is not None and placement.has_batch_norm:
            reason = "BatchNorm needs 2 or more images in a batch"
            raise ValueError(f"batch_size=1 with placement={placement.value}: {reason}")
        return size

    @field_validator("folds")
    @classmethod
    def _as_the_split_needs(cls, folds: int, info: ValidationInfo) -> int:
        split = info.data.get("split")
        if split == "folds" and folds < 2:
            raise ValueError(f"folds={folds}: cross-validation needs 2 or more folds")
        if split is not None and split != "folds" and folds:
            raise ValueError(f"folds={folds}: only allowed with split=folds")
        return folds

    @field_validator("train_images")
    @classmethod
    def _at_least_a_batch(cls, train_images: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", 0)
        if train_images and batch_size > train_images:
            raise ValueError(f"batch_size={batch_size}: larger than train_images={train_images}")
        return train_images

    @classmethod
    def create(cls, **fields: Any) -> RunConfig:
        """Validate `fields` into a configuration. A field `model.NAME` is an argument of the network's factory.

        Raises:
            ConfigError: one line that names every wrong field.
        """
        own = {name.removeprefix(ARGUMENT): fields.pop(name) for name in list(fields) if name.startswith(ARGUMENT)}
        if own:
            with contextlib.suppress(TypeError, ValueError):  # what is neither a mapping nor pairs is refused below
                fields["model_args"] = dict(fields.get("model_args", ())) | own
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ConfigError("; ".join(map(_explain, error.errors()))) from None

    def derive(self, **fields: Any) -> RunConfig:
        """Return the same run with some fields changed, validated again.

        Raises:
            ConfigError: one line that names every wrong field.
        """
        return self.create(**(self.model_dump() | fields))

    def to_params(self) -> dict[str, str]:
        """Return the fields as strings, for MLflow's parameters; `from_params` is the exact inverse.

        An argument of the network's factory is `model.NAME`, as JSON. Later fields that change nothing are left out.
        """
        fields = self.model_dump(mode="json", exclude={"model_args", *self.later_fields_unused} - {"train_images"})
        arguments = {f"{ARGUMENT}{name}": json.dumps(value) for name, value in self.model_args}
        return {name: str(value) for name, value in fields.items()} | arguments

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> RunConfig:
        """Rebuild a configuration from MLflow's parameters and ignore those that are not its fields.

        A run that `mlflow run` started has its own parameters; ours are then called `config.NAME`.
        """
        names = cls.model_fields.keys() - {"model_args"}
        found = {name: params.get(f"config.{name}", params.get(name)) for name in names}
        arguments = {
            name.removeprefix("config."): _argument(name, value)
            for name, value in params.items()
            if name.removeprefix("config.").startswith(ARGUMENT)
        }
        return cls.create(**{name: value for name, value in found.items() if value is not None}, **arguments)

    @property
    def model_name(self) -> str:
        """The network's name for people: that of a factory in a file is without the folder."""
        return self.model.rpartition("/")[2]

    @property
    def network_placement(self) -> Placement:
        """The placement that the network has in effect: Dropout at rate 0 is no Dropout."""
        conv, head = self.conv_dropout > 0, self.head_dropout > 0
        match self.placement:
            case Placement.DROPOUT if not conv and not head:
                return Placement.NONE
            case Placement.BN_DROPOUT | Placement.DROPOUT_BN | Placement.BN_DROPOUT_ADD if not conv:
                return Placement.BN_HEAD_DROPOUT if head else Placement.BN
            case Placement.BN_DROPOUT_LAST if not conv:
                return Placement.BN_POOL_DROPOUT if head else Placement.BN
            case Placement.BN_HEAD_DROPOUT | Placement.BN_POOL_DROPOUT if not head:
                return Placement.BN
            case placement:
                return placement

    @property
    def later_fields_unused(self) -> set[str]:
        """Fields added after the first recorded runs, while they change nothing.

        Hashes and settings leave them out, so that runs recorded without them are still recognised.
        """
        fields = type(self).model_fields
        return {name for name in LATER if getattr(self, name) == fields[name].default}

    @property
    def key(self) -> str:
        """A hash that two configurations share exactly if they train the same network in the same way."""
        fields = self.model_dump(mode="json", exclude={"experiment", *self.later_fields_unused})
        fields["placement"] = self.network_placement.value
        if self.dataset_sha256:  # wherever the images lie
            fields |= {"dataset": "", "image_size": 0}
        if self.model_sha256:  # and the factory
            fields["model"] = self.model.rpartition(":")[2]
        if not self.network_placement.uses("dropout_schedule"):  # there is no Dropout
            fields = {name: value for name, value in fields.items() if not name.startswith("dropout_s")}
        if self.split == "test":
            fields["split"] = FORMER_SPLIT  # so that runs recorded under this name are recognised
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _argument(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise ConfigError(f"{name}={value[:60]!r}: not JSON. Restore the run from a backup.") from None


def _explain(detail: ErrorDetails) -> str:
    """Return one clause for one of pydantic's errors: the field, the bad value, and what is allowed."""
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "extra_forbidden":
        return f"unknown field {field!r}: the fields are {', '.join(RunConfig.model_fields)}"
    if field == "device":
        return f"device={str(detail['input'])[:60]!r}: no such device; use auto, cpu, cuda or cuda:N"
    reason = detail["msg"].replace("Input should", "should")
    return f"{field}={str(detail['input'])[:60]!r}: {reason[0].lower()}{reason[1:]}"


def check_rates(config: RunConfig, given: Mapping[str, Any]) -> None:
    """Refuse a Dropout rate or schedule in `given` that `config`, which was made from it, does not use.

    Raises:
        ConfigError: the placement has no Dropout where the rate was given, or nothing switches.
    """
    for name, place in PLACES.items():
        rate = given.get(name)
        if rate is not None and float(rate) != getattr(config, name):
            raise ConfigError(
                f"{name}={rate}: placement {config.placement.value} has no Dropout in its {place}. Choose one that "
                f"has, or leave --{name.replace('_', '-')} out."
            )
    if given.get("dropout_schedule", "constant") != config.dropout_schedule:
        raise ConfigError(
            f"dropout_schedule={given['dropout_schedule']}: placement {config.placement.value} has no Dropout. Choose "
            "one that has, or leave --dropout-schedule out."
        )
    if given.get("dropout_switch") and not config.dropout_switch:
        raise ConfigError(
            f"dropout_switch={given['dropout_switch']}: only --dropout-schedule early and late use it. Add one of "
            "them, or leave --dropout-switch out."
        )


def placements_of(model: str) -> tuple[Placement, ...]:
    """Return the placements that a network can have. Of a factory's, those that fit are known once it is called."""
    return PLAIN if model in MODELS and model not in RESIDUAL else LAYERED


def finite(value: float) -> bool:
    """Return True if a study or a tracker accepts `value` as a metric."""
    return math.isfinite(value)
