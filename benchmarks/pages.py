"""The pages of benchmarks: medians with their range, tables, and the command that repeats a measurement.

A result lies in docs/results/benchmarks/QUESTION-HARDWARE-DATE.md. The last line that a benchmark
prints is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "docs" / "results" / "benchmarks"
FAMILIES: Final = ("xeon", "epyc", "ryzen", "core", "apple", "graviton", "neoverse")


def add_save(parser: argparse.ArgumentParser) -> None:
    """Add the option to keep a result."""
    parser.add_argument("--save", action="store_true", help="write docs/results/benchmarks/QUESTION-HARDWARE-DATE.md")


def command(question: str, args: argparse.Namespace) -> str:
    """Return the command that repeats a measurement, with every option that has a value but paths."""
    words = [f"python -m benchmarks.{question}"]
    for name, value in vars(args).items():
        if name == "save" or value is None or value is False or isinstance(value, Path):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words)


def conclude(
    question: str,
    hardware: dict[str, Any],
    parts: Sequence[str],
    record: Mapping[str, Any],
    save: bool,
    picture: Figure | None = None,
) -> None:
    """Print the page, keep it if asked to, and print everything measured as JSON on the last line."""
    line = json.dumps({"question": question, **record, "hardware": hardware})
    text = "\n\n".join([*parts, hardware_table(hardware)]) + "\n"
    print("", text, sep="\n")
    if save:
        path = RESULTS / f"{question}-{hardware_name(hardware)}-{hardware['date']}.md"
        if picture is not None:
            picture.savefig(path.with_suffix(".png"), dpi=120)
            text = f"{text}\n![{question}]({path.stem}.png)\n"
        write(path, f"{text}\n{line}\n")
        print(path)
    print(line, flush=True)


def head(title: str, hardware: Mapping[str, Any], what: str, command: str) -> list[str]:
    """Return the beginning of a page: title, hardware, what was measured, and how to repeat it."""
    on = f"{hardware['date']}, {hardware.get('gpu') or hardware['cpu']}, {hardware['usable_cores']} cores. {what}"
    return [f"# {title}", on, f"`{command}`"]


def hardware_name(hardware: Mapping[str, Any]) -> str:
    """Name the hardware as files do: `xeon-2cores`, or `h200` for a GPU."""
    if "gpu" in hardware:
        return re.sub(r"[^a-z0-9]+", "-", str(hardware["gpu"]).lower().removeprefix("nvidia ")).strip("-")
    words = re.findall(r"[a-z]+", str(hardware["cpu"]).lower())
    family = next((name for name in FAMILIES if name in words), words[0] if words else "cpu")
    return f"{family}-{hardware['usable_cores']}cores"


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int, unit: str = "") -> str:
        """Format as `median [min-max]`."""
        return f"{self.median:.{digits}f}{unit} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns also line up in a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def hardware_table(hardware: dict[str, Any]) -> str:
    facts = {name.replace("_", " "): value for name, value in hardware.items()}
    versions, peaks = facts.pop("versions"), facts.pop("matmul gflops")
    facts |= {f"{name} matmul peak, GFLOP/s": peak for name, peak in peaks.items()}
    return table(["hardware and versions", ""], [[name, _cell(value)] for name, value in (facts | versions).items()])


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def write(path: Path, text: str) -> None:
    """Write aside, then rename."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
