"""The X-ray of a network as plain numbers, its metrics, table and files. docs/explanation/xray.md explains them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sweeper
from sweeper.core.advice import advise, describe

if TYPE_CHECKING:
    import pandas as pd

CSV_FILE: Final = "diagnostics/variance_shift.csv"
JSON_FILE: Final = "diagnostics/xray.json"
DIGITS: Final = 6  # significant digits in the files


@dataclass(frozen=True)
class Activations:
    """The values on one side of a BN layer, in eval mode, over all its channels."""

    mean: float
    variance: float
    dead: float  # share of channels that are never above 0, of which a ReLU passes nothing
    low: float  # mean - 4 standard deviations
    high: float  # mean + 4 standard deviations
    shares: tuple[float, ...]  # histogram of equal bins from low to high; values beyond are in the end bins


@dataclass(frozen=True)
class BatchNormLayer:
    """One BN layer, and the distance of its running variance m from r, the variance of its input in eval mode."""

    name: str  # in the weights, such as `1` of `1.running_var`
    position: str  # next to a weight layer, such as `after conv 2`; in your own network, the name
    channels: int
    left_out: int  # channels without a ratio, because r or m is not above BN's eps
    ratio: float  # mean over channels of max(r/m, m/r), 1 or more
    signed: float  # mean over channels of log(r/m); below 0 if training saw more variance than evaluation
    spread: tuple[float, float]  # 10 % and 90 % quantiles over channels of max(r/m, m/r)
    floor: float  # the ratio to expect from the noise of batches alone
    closed_form: float  # the ratio with m from the closed form for Dropout right before BN; NaN without it
    batch_noise: float  # coefficient of variation over batches of the batch variance in training, mean over channels
    before: Activations
    after: Activations
    dropout: str = ""  # name of the Dropout right before it, or empty
    earlier: str = ""  # name of the last active Dropout called before it, or empty

    @property
    def dead(self) -> int:
        """The number of channels that are never above 0 behind the layer, of which a ReLU passes nothing."""
        return round(self.after.dead * self.channels)


@dataclass(frozen=True)
class Skipped:
    """A BN layer that has no numbers."""

    name: str
    reason: str


@dataclass(frozen=True)
class XRay:
    """The interaction of BatchNorm and Dropout in a network; missing values are NaN.

    `print` it for a table of its layers and one sentence of advice.
    """

    layers: tuple[BatchNormLayer, ...]  # in the order of their first calls; empty without BatchNorm
    images: int  # in each pass
    recalibration_gain_accuracy: float  # validation accuracy after BN recalibration minus before
    recalibration_gain_loss: float  # validation NLL before minus after, nats; above 0 is a gain
    skipped: tuple[Skipped, ...] = field(default=(), kw_only=True)
    mask_variance: float = field(default=math.nan, kw_only=True)  # of a logit over Dropout masks; of runs only

    def __str__(self) -> str:
        return describe(self)

    @property
    def advice(self) -> str:
        """One sentence: which layer stands out, and what to do about it (docs/how-to/xray-your-model.md)."""
        return advise(self)

    def metrics(self) -> dict[str, float]:
        """Return the finite values under their names in MLflow; those of layers are means over the layers."""
        values = {
            "xray/variance_shift": _mean([layer.ratio for layer in self.layers]),
            "xray/variance_shift_signed": _mean([layer.signed for layer in self.layers]),
            "xray/batch_noise": _mean([layer.batch_noise for layer in self.layers]),
            "xray/recalibration_gain_accuracy": self.recalibration_gain_accuracy,
            "xray/recalibration_gain_loss": self.recalibration_gain_loss,
            "xray/mask_variance": self.mask_variance,
        }
        return _finite(values)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per BN layer, with the columns of `csv` and the names of the Dropout layers before it."""
        import pandas as pd

        rows = [_row(layer) | {"dropout": layer.dropout, "earlier": layer.earlier} for layer in self.layers]
        return pd.DataFrame(rows)

    def csv(self) -> bytes:
        """Return one row per BN layer; missing values are blank."""
        text = io.StringIO()
        rows = [_rounded(_row(layer)) for layer in self.layers]
        writer = csv.DictWriter(text, fieldnames=rows[0] if rows else (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def json(self) -> bytes:
        """Return all values with the histograms; missing values are null."""
        return json.dumps({"sweeper": sweeper.__version__} | _rounded(asdict(self)), allow_nan=False).encode()


@dataclass(frozen=True)
class RunXRay(XRay):
    """The X-ray of the final weights of a run, and what its training showed."""

    brier: float  # of the validation images, 0 to 2
    error_confidence: float  # mean confidence on wrong predictions
    onset: int  # epoch of the lowest validation NLL
    grad_norm_cv: float  # this and the two below as in `results.Stability`
    spikes: int
    nonfinite_steps: int
    seconds: float = field(compare=False)  # duration of the examination

    def metrics(self) -> dict[str, float]:
        """Return the finite values under their names in MLflow; those of layers are means over the layers."""
        names = ("brier", "error_confidence", "onset", "grad_norm_cv", "spikes", "nonfinite_steps")
        return super().metrics() | _finite({f"xray/{name}": getattr(self, name) for name in names})

    def files(self) -> dict[str, bytes]:
        """Return the artifacts of a run, by name; none without BatchNorm."""
        return {CSV_FILE: self.csv(), JSON_FILE: self.json()} if self.layers else {}


def _row(layer: BatchNormLayer) -> dict[str, Any]:
    low, high = layer.spread
    row = {
        "layer": layer.name, "position": layer.position, "channels": layer.channels, "left_out": layer.left_out,
        "ratio": layer.ratio, "signed": layer.signed, "ratio_p10": low, "ratio_p90": high, "floor": layer.floor,
        "closed_form": layer.closed_form, "batch_noise": layer.batch_noise,
    }  # fmt: skip
    for side, seen in (("before", layer.before), ("after", layer.after)):
        row |= {f"mean_{side}": seen.mean, f"variance_{side}": seen.variance, f"dead_{side}": seen.dead}
    return row


def _rounded(value: Any) -> Any:
    """Return `value` with its floats rounded to `DIGITS`, and None for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _mean(values: list[float]) -> float:
    """Return the mean of the finite values, NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
