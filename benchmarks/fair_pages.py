"""Tables of `benchmarks.fair_accuracy`: accuracies over seeds, and where they lie against three marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Final

from scipy import stats

from benchmarks.pages import table

MARKS: Final = {"the article": 0.948, "weak bar": 0.9490, "strong bar": 0.9508}
SUMMARY: Final = ("n", "mean, %", "sd, points", "95 % interval")


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation, and 95 % interval of the mean by Student's t; None where one value has none."""
    mean, n = fmean(values), len(values)
    sd = stdev(values) if n > 1 else None
    half = None if sd is None else float(stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return {"n": n, "mean": mean, "sd": sd, "interval": None if half is None else [mean - half, mean + half]}


def against(found: Mapping[str, Any], mark: float) -> str:
    """Where a mean and its interval lie."""
    words = "reached" if found["mean"] >= mark else "not reached"
    if found["interval"] is None:
        return f"{words}, by one seed"
    low, high = found["interval"]
    return f"{words}; the interval {'lies above' if low > mark else 'lies below' if high < mark else 'holds it'}"


def shown(found: Mapping[str, Any]) -> list[str]:
    """A summary as cells, in percent."""
    sd = "" if found["sd"] is None else f"{100 * found['sd']:.3f}"
    interval = "" if found["interval"] is None else "[{:.3f}, {:.3f}]".format(*(100 * x for x in found["interval"]))
    return [str(found["n"]), f"{100 * found['mean']:.3f}", sd, interval]


def evaluation_page(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """The tables of an evaluation, and everything in them."""
    complete = [entry for entry in entries if "diverged" not in entry]
    record: dict[str, Any] = {"seeds": list(entries), "diverged": len(entries) - len(complete)}
    if not complete:
        return [f"All {len(entries)} seeds diverged."], record
    near = complete[0]["near_duplicates"]
    both = {f"all {complete[0]['images']:,}": summary([entry["accuracy"] for entry in complete]),
            f"without {near} near-duplicates": summary([entry["accuracy_without"] for entry in complete])}  # fmt: skip
    seconds = [entry["seconds"] for entry in complete]
    facts = [["parameters", f"{complete[0]['parameters']:,}"], ["epochs", str(complete[0]["epochs"])],
             ["seconds of training a seed", f"{fmean(seconds):.1f} [{min(seconds):.1f}-{max(seconds):.1f}]"],
             ["seeds that diverged, and are in no mean", str(record["diverged"])]]  # fmt: skip
    means = [[images, *shown(found)] for images, found in both.items()]
    marks = [[name, f"{mark:.4f}", *(against(found, mark) for found in both.values())] for name, mark in MARKS.items()]
    parts = [table(["test images", *SUMMARY], means), table(["mark", "", *both], marks), table(["", ""], facts)]
    return parts, record | {"accuracy": dict(zip(("all", "without"), both.values(), strict=True)), "marks": MARKS}
