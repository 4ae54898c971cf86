"""The X-ray of a finished run as a value: what `diagnostics.examine` found, and the files it becomes.

docs/xray.md says what each number means. Plain numbers only, so that it crosses a pipe and a JSON file.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import sweeper

CSV_FILE: Final = "diagnostics/variance_shift.csv"
JSON_FILE: Final = "diagnostics/xray.json"
DIGITS: Final = 6  # significant ones in the files


@dataclass(frozen=True)
class Activations:
    """The values on one side of a BN layer, in eval mode, over all its channels.

    `dead` is the share of channels that are never above 0: a ReLU lets nothing of them through. `shares` is a
    histogram of equal bins from `low` to `high`, mean ± 4 standard deviations; values beyond are in its end bins.
    """

    mean: float
    variance: float
    dead: float
    low: float
    high: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class BatchNormLayer:
    """One BN layer: how far its running variance m is from r, the variance that eval mode gives it.

    Attributes:
        name: of the layer in the weights, such as `1` of `1.running_var`.
        position: beside which weight layer it stands, such as `after conv 2`.
        channels: how many it has.
        left_out: channels that no ratio counts, because BN's eps outweighs r or m.
        ratio: mean over channels of max(r/m, m/r), 1 or more.
        signed: mean over channels of log(r/m); below 0 where training saw more variance than evaluation does.
        spread: the 10 % and 90 % quantiles over channels of max(r/m, m/r).
        floor: the ratio that the noise of batches alone would lead to.
        closed_form: the ratio with m from the closed form for Dropout right before BN; NaN where Dropout is elsewhere.
        batch_noise: coefficient of variation over batches of the batch variance in training mode, mean over channels.
        before: what enters the layer.
        after: what leaves it.
    """

    name: str
    position: str
    channels: int
    left_out: int
    ratio: float
    signed: float
    spread: tuple[float, float]
    floor: float
    closed_form: float
    batch_noise: float
    before: Activations
    after: Activations


@dataclass(frozen=True)
class XRay:
    """How BatchNorm and Dropout interact in the final weights of a run.

    Attributes:
        layers: the BN layers in order; empty without BatchNorm.
        images: how many training images each pass took.
        recalibration_gain_accuracy: validation accuracy after BN recalibration minus before.
        recalibration_gain_loss: validation NLL before minus after, nats; above 0 is a gain.
        brier: of the validation images, 0 to 2.
        error_confidence: mean confidence on wrong predictions.
        onset: epoch of the lowest validation NLL.
        grad_norm_cv: coefficient of variation of the gradient norm.
        spikes: steps with an outlying loss.
        nonfinite_steps: losses and sampled gradient norms that were not finite.
        seconds: that the examination took.

    What a run does not have is NaN.
    """

    layers: tuple[BatchNormLayer, ...]
    images: int
    recalibration_gain_accuracy: float
    recalibration_gain_loss: float
    brier: float
    error_confidence: float
    onset: int
    grad_norm_cv: float
    spikes: int
    nonfinite_steps: int
    seconds: float = field(compare=False)

    def metrics(self) -> dict[str, float]:
        """The finite values under their names in MLflow; those of layers are means over the layers."""
        values: dict[str, float] = {
            "xray/variance_shift": _mean([layer.ratio for layer in self.layers]),
            "xray/variance_shift_signed": _mean([layer.signed for layer in self.layers]),
            "xray/batch_noise": _mean([layer.batch_noise for layer in self.layers]),
        }
        names = ("recalibration_gain_accuracy", "recalibration_gain_loss", "brier", "error_confidence", "onset",
                 "grad_norm_cv", "spikes", "nonfinite_steps")  # fmt: skip
        values |= {f"xray/{name}": getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def files(self) -> dict[str, bytes]:
        """The artifacts of a run, by name; none without BatchNorm."""
        return {CSV_FILE: self.csv(), JSON_FILE: self.json()} if self.layers else {}

    def csv(self) -> bytes:
        """A row a BN layer; what it does not have is blank."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(layer) for layer in self.layers)
        return text.getvalue().encode()

    def json(self) -> bytes:
        """Everything, the histograms too; what a run does not have is null."""
        return json.dumps({"sweeper": sweeper.__version__} | _rounded(asdict(self)), allow_nan=False).encode()


_SIDES: Final = ("before", "after")
_MOMENTS: Final = ("mean", "variance", "dead")
_COLUMNS: Final = (
    "layer", "position", "channels", "left_out", "ratio", "signed", "ratio_p10", "ratio_p90", "floor", "closed_form",
    "batch_noise", *(f"{moment}_{side}" for side in _SIDES for moment in _MOMENTS),
)  # fmt: skip


def _row(layer: BatchNormLayer) -> dict[str, Any]:
    plain = {f.name: getattr(layer, f.name) for f in fields(layer) if f.name not in ("name", "spread", *_SIDES)}
    moments = {f"{m}_{side}": getattr(getattr(layer, side), m) for side in _SIDES for m in _MOMENTS}
    spread = dict(zip(("ratio_p10", "ratio_p90"), layer.spread, strict=True))
    return _rounded({"layer": layer.name} | plain | spread | moments)  # type: ignore[no-any-return]


def _rounded(value: Any) -> Any:
    """`value` with its floats cut to a few digits, and None for what is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _mean(values: list[float]) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
