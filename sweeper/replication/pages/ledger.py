"""The ledger as a table on a terminal, as Markdown and as a figure: tuples in, text and bytes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.report.figure import (
    BLUE,
    GREY,
    INK,
    SOFT_INK,
    VERMILLION,
    add_legend,
    add_note,
    as_png,
    counted,
    decorate,
    new_figure,
    notice,
    plain_tick,
    round_ticks,
    shorten,
)

DECLARED: Final = "Under our declared instantiation of the article (docs/reproduction.md)."
COLORS: Final = {"supported": BLUE, "contradicted": VERMILLION, "inconclusive": GREY}
PANELS: Final = (("points", "points of accuracy or confidence"), ("nats", "nats"))
PICTURED: Final = "Differences in points and in nats, with their intervals"  # what `forest` draws
LEAST_CLAIM: Final = 9  # columns of a terminal that the words of a claim get at least


class Entry(NamedTuple):
    """One claim with its verdict. Numbers that cannot be had are NaN."""

    number: int
    says: str
    question: str  # when it counts as supported
    verdict: str
    reason: str
    label: str  # of the deciding number
    unit: str
    direction: int  # +1: claimed above `bound`
    bound: float
    estimate: float
    low: float
    high: float
    p: float  # of the verdict it is closer to, before Holm
    p_holm: float
    counts: Mapping[str, int]  # runs by arm, of the test that decides
    looks: tuple[int, ...]  # seeds of each interim analysis so far
    arms: tuple[str, ...]  # that are compared
    test: str  # the deciding one
    takes: str  # seeds that would decide it
    notes: tuple[str, ...]
    also: Mapping[str, float]  # further numbers


class ArmRow(NamedTuple):
    """The runs of one arm: seed and MLflow run, where there is one."""

    arm: str
    runs: tuple[tuple[int, str | None], ...]
    diverged: int


class Ledger(NamedTuple):
    """The content of the pages."""

    protocol: str
    provenance: Mapping[str, str]  # seeds, data set, hardware, versions
    entries: Sequence[Entry]
    arms: Sequence[ArmRow]
    contradictions: Sequence[str]
    links: Mapping[str, str]  # MLflow run to address
    method: str


# --- numbers ------------------------------------------------------------------------------------------


def number(value: float, unit: str, *, signed: bool = True) -> str:
    """A value in its unit: points and shares times 100, log ratios as a change in percent."""
    if not math.isfinite(value):
        return "-"
    sign = "+" if signed else ""
    match unit:
        case "points":
            return f"{100 * value:{sign}z.2f}"
        case "ratio":
            return f"{100 * math.expm1(value):{sign}z.0f}"
        case "share":
            return f"{100 * value:.0f}"
        case "nats" | "x":
            return f"{value:{sign}z.3f}"
        case "nats/epoch":
            return f"{value:{sign}z.4f}"
        case _:
            return f"{value:{sign}z.2f}"


UNITS: Final = {"points": "pt", "ratio": "%", "share": "%", "nats/epoch": "/ep", "grid steps": "steps"}


def interval(entry: Entry) -> str:
    """The deciding number with its interval: +0.31 [+0.12, +0.50] pt."""
    if not math.isfinite(entry.estimate):
        return "-"
    signed = entry.unit not in ("x", "share")
    shown = [number(value, entry.unit, signed=signed) for value in (entry.estimate, entry.low, entry.high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}] {UNITS.get(entry.unit, entry.unit)}"


def p_value(p: float) -> str:
    """Two digits, in few characters."""
    if math.isnan(p):
        return "-"
    return f"{p:.2f}" if p >= 0.095 else f"{p:.1e}".replace("e-0", "e-") if p < 0.001 else f"{p:.3f}"


def n_runs(entry: Entry) -> str:
    """The runs of an arm in the deciding test: 5, or 2-5 where arms differ."""
    found = sorted(set(entry.counts.values()))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def looks(entry: Entry) -> str:
    """The numbers of seeds at which the claim has been judged."""
    return ", ".join(map(str, entry.looks)) or "-"


def linked_runs(ledger: Ledger, arm: str) -> list[tuple[int, str]]:
    """Seed and address in MLflow of the runs of an arm that have one."""
    runs = (run for row in ledger.arms if row.arm == arm for run in row.runs)
    return [(seed, ledger.links[run_id]) for seed, run_id in runs if run_id is not None and run_id in ledger.links]


# --- terminal and Markdown ------------------------------------------------------------------------------


def text_table(ledger: Ledger, width: int) -> list[str]:
    """The ledger in lines of at most `width` characters, ASCII only; `takes` is the seeds that would decide a claim."""
    head = ("#", "claim", "verdict", "difference [95 %]", "p Holm", "n", "takes")
    rows = [
        (str(e.number), e.says.replace("Experiment ", "exp "), e.verdict, interval(e), p_value(e.p_holm), n_runs(e),
         e.takes)
        for e in ledger.entries
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    room = width - 2 * (len(widths) - 1) - (sum(widths) - widths[1])
    widths[1] = max(LEAST_CLAIM, min(widths[1], room))
    return [_line(row, widths)[:width].rstrip() for row in (head, *rows)]


def untestable(ledger: Ledger, width: int) -> list[str]:
    """Why claims cannot be tested: the first four reasons, one a line of at most `width` characters."""
    reasons: dict[str, list[str]] = {}
    for entry in ledger.entries:
        if entry.verdict == "untestable":
            reasons.setdefault(entry.reason, []).append(str(entry.number))
    lines = [f"untestable {', '.join(numbers)}: {reason}" for reason, numbers in reasons.items()]
    more = [f"and {len(lines) - 4} more reasons, in ledger.html"] if len(lines) > 5 else lines[4:]
    return [line if len(line) <= width else line[: width - 2] + ".." for line in [*lines[:4], *more]]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].rjust(widths[0]), _cut(row[1], widths[1]), row[2].ljust(widths[2]), row[3].ljust(widths[3])]
    return "  ".join([*cells, *(cell.rjust(room) for cell, room in zip(row[4:], widths[4:], strict=True))])


def _cut(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 2] + "..").ljust(width)


def counts(ledger: Ledger) -> str:
    """The number of claims by verdict: 3 supported, 1 contradicted, 20 inconclusive, 4 untestable."""
    verdicts = [entry.verdict for entry in ledger.entries]
    names = ("supported", "contradicted", "inconclusive", "untestable")
    return ", ".join(f"{verdicts.count(name)} {name}" for name in names)


def provenance_line(ledger: Ledger) -> str:
    """One line for every table: the protocol, data, hardware and versions that it holds for."""
    told = {"Protocol": ledger.protocol, **ledger.provenance}
    return f"{DECLARED} " + "; ".join(f"{name}: {value}" for name, value in told.items()) + "."


def markdown(ledger: Ledger) -> bytes:
    """The ledger as a Markdown document."""
    return ("\n".join(_markdown(ledger)) + "\n").encode()


def _markdown(ledger: Ledger) -> Iterator[str]:
    yield f"# The article's 28 claims, protocol {ledger.protocol}\n"
    yield f"{counts(ledger).capitalize()}.\n"
    yield from _markdown_table(
        ledger,
        ("#", "claim", "verdict", "decided by", "test", "difference [95 % interval]", "p, Holm", "n",
         "interim analyses at", "arms", "reason"),
        [(str(e.number), e.says, f"**{e.verdict}**", e.label, e.test, interval(e), p_value(e.p_holm), n_runs(e),
          looks(e), ", ".join(_markdown_arm(ledger, arm) for arm in e.arms), e.reason)
         for e in ledger.entries],
    )  # fmt: skip
    yield f"\n![{PICTURED}](ledger.png)\n"
    yield "## What counts as supported\n"
    yield from _markdown_table(
        ledger,
        ("#", "supported if", "notes"),
        [(str(e.number), e.question, told(e) + " ".join(e.notes)) for e in ledger.entries],
    )  # fmt: skip
    yield f"\n{ledger.method}\n"
    yield "## Where the article contradicts itself\n"
    yield from (f"- {text}" for text in ledger.contradictions)
    yield "\n## Runs\n"
    yield from _markdown_table(
        ledger,
        ("arm", "seeds", "diverged", "MLflow runs"),
        [(row.arm, str(len(row.runs)), str(row.diverged), " ".join(_markdown_run(ledger, *run) for run in row.runs))
         for row in ledger.arms],
    )  # fmt: skip


def _markdown_arm(ledger: Ledger, arm: str) -> str:
    """The name of an arm, and links to its runs."""
    return " ".join([arm, *(f"[{seed}]({link})" for seed, link in linked_runs(ledger, arm))])


def _markdown_run(ledger: Ledger, seed: int, run_id: str | None) -> str:
    return f"[{seed}]({ledger.links[run_id]})" if run_id is not None and run_id in ledger.links else str(seed)


def _markdown_table(ledger: Ledger, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"{provenance_line(ledger)}\n"
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


# --- the figure -----------------------------------------------------------------------------------------


def forest(ledger: Ledger) -> bytes:
    """Differences in points and in nats, as far as they favour the claim, with their intervals; a panel for each unit.

    Returns:
        A PNG image.
    """
    title = f"Claims of the article, protocol {ledger.protocol}"
    panels = [(label, [e for e in ledger.entries if e.unit == unit and math.isfinite(e.low)]) for unit, label in PANELS]
    if not any(entries for _, entries in panels):
        return notice(title, "No claim has an interval yet: that needs two seeds of each arm.")
    figure = new_figure(title, "Distance from the claim's bound, with its 95 % interval; right favours the claim.")
    figure.set_size_inches(10, 7)
    for axes, (label, entries) in zip(figure.subplots(1, 2), panels, strict=True):
        _draw_panel(axes, label, entries)
    marks = [(Line2D([], [], color=color, marker="o", markersize=5, linewidth=1.8), name,
              any(e.verdict == name for _, entries in panels for e in entries))
             for name, color in COLORS.items()]  # fmt: skip
    add_legend(figure, *marks)
    return as_png(figure)


def _draw_panel(axes: Axes, label: str, entries: Sequence[Entry]) -> None:
    decorate(axes, "", "x")
    axes.set_xlabel(label, fontsize=10, color=SOFT_INK)
    round_ticks(axes.xaxis, plain_tick)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.set_ylim(max(len(entries), 4) - 0.5, -0.5)
    axes.set_yticks(range(len(entries)), [f"{e.number}" for e in entries])
    for height, entry in enumerate(entries):
        low, middle, high = favouring(entry)
        color = COLORS.get(entry.verdict, GREY)
        axes.plot([low, high], [height, height], color=color, linewidth=1.8, zorder=3)
        axes.plot([middle], [height], "o", color=color, markersize=5, zorder=4)
        add_note(axes, shorten(entry.says, 44), (0, height), (4, 9), ("axes fraction", "data"), fontsize=7,
                 color=SOFT_INK)  # fmt: skip


def favouring(entry: Entry) -> tuple[float, float, float]:
    """Low end, estimate and high end as distances from the bound, positive where they favour the claim."""
    scale = entry.direction * (100 if entry.unit == "points" else 1)
    ends = [scale * (value - entry.bound) for value in (entry.low, entry.estimate, entry.high)]
    return min(ends[0], ends[2]), ends[1], max(ends[0], ends[2])


def told(entry: Entry) -> str:
    """The further numbers of a claim, in words."""
    return "".join(f"{name}: {value:.3f}. " for name, value in entry.also.items())


def summary_words(ledger: Ledger) -> str:
    """The ledger in a sentence."""
    return f"{counted(len(ledger.entries), 'claim')}: {counts(ledger)}."
