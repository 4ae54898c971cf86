"""The ledger as a table on a terminal, as Markdown and as a figure: tuples in, text and bytes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sweeper.core.text import counted
from sweeper.replication.claims.ledger import Judged, Ledger
from sweeper.replication.runs import ArmRun, aligned, diverged
from sweeper.replication.statistics.base import Shown
from sweeper.report.figure import (
    BLUE,
    GREY,
    INK,
    SOFT_INK,
    VERMILLION,
    add_legend,
    add_note,
    as_png,
    decorate,
    new_figure,
    notice,
    plain_tick,
    round_ticks,
    shorten,
)

VERDICTS: Final = ("supported", "contradicted", "inconclusive", "untestable")
COLORS: Final = {"supported": BLUE, "contradicted": VERMILLION, "inconclusive": GREY}
PANELS: Final = (("points", "points of accuracy or confidence"), ("nats", "nats"))
PICTURED: Final = "Differences in points and in nats, with their intervals"  # what `forest` draws
LEAST_CLAIM: Final = 9  # least width of a claim's words on a terminal

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


def interval(shown: Shown) -> str:
    """The deciding number with its interval: +0.31 [+0.12, +0.50] pt."""
    if not math.isfinite(shown.estimate):
        return "-"
    signed = shown.unit not in ("x", "share")
    numbers = [number(value, shown.unit, signed=signed) for value in (shown.estimate, shown.low, shown.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}] {UNITS.get(shown.unit, shown.unit)}"


def p_value(p: float) -> str:
    """Two digits, in few characters."""
    return f"{p:.2f}" if p >= 0.095 else f"{p:.1e}".replace("e-0", "e-") if p < 0.001 else f"{p:.3f}"


def p_holm(judged: Judged) -> str:
    """The smaller of both p-values after Holm's correction; a dash before the first interim analysis."""
    return p_value(min(judged.p_holm)) if judged.looks else "-"


def n_runs(shown: Shown) -> str:
    """The runs of an arm in the deciding test: 5, or 2-5 where arms differ."""
    found = sorted(set(shown.counts.values()))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def looks(judged: Judged) -> str:
    """The numbers of seeds at which the claim has been judged."""
    return ", ".join(str(look.seeds) for look in judged.looks) or "-"


def linked_runs(ledger: Ledger, arm: str) -> Iterator[tuple[int, str]]:
    """Seed and address in MLflow of the runs of an arm that have one."""
    for run in ledger.runs.get(arm, ()):
        if link := link_of(ledger, run):
            yield run.seed, link


def link_of(ledger: Ledger, run: ArmRun) -> str:
    """The address of a run in MLflow; empty if it has none."""
    return ledger.links.get(run.run_id or "", "")


# --- terminal and Markdown ------------------------------------------------------------------------------


def text_table(ledger: Ledger, width: int) -> list[str]:
    """The ledger in lines of at most `width` characters, ASCII only; `takes` is the seeds that would decide a claim."""
    head = ("#", "claim", "verdict", "difference [95 %]", "p Holm", "n", "takes")
    rows = [
        (str(e.claim.number), e.claim.says.replace("Experiment ", "exp "), e.verdict, interval(e.shown), p_holm(e),
         n_runs(e.shown), e.takes)
        for e in ledger.judged
    ]  # fmt: skip
    others = [max(map(len, column)) for i, column in enumerate(zip(head, *rows, strict=True)) if i != 1]
    room = max(LEAST_CLAIM, width - 2 * len(others) - sum(others))
    lines = aligned([head, *((row[0], _cut(row[1], room), *row[2:]) for row in rows)], left=(1, 2, 3))
    return [line[:width].rstrip() for line in lines]


def untestable(ledger: Ledger, width: int) -> list[str]:
    """The reasons why claims cannot be tested: the first four, one a line of at most `width` characters."""
    reasons: dict[str, list[str]] = {}
    for entry in ledger.judged:
        if entry.why_not:
            reasons.setdefault(entry.why_not, []).append(str(entry.claim.number))
    lines = [f"untestable {', '.join(numbers)}: {reason}" for reason, numbers in reasons.items()]
    more = [f"and {len(lines) - 4} more reasons, in ledger.html"] if len(lines) > 5 else lines[4:]
    return [_cut(line, width) for line in [*lines[:4], *more]]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def counts(ledger: Ledger) -> str:
    """The number of claims by verdict: 3 supported, 1 contradicted, 20 inconclusive, 4 untestable."""
    verdicts = [entry.verdict for entry in ledger.judged]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS)


def provenance_line(ledger: Ledger) -> str:
    """One line for every table: the protocol, data, hardware and versions that it holds for."""
    told = {"Protocol": ledger.of.name, **ledger.provenance}
    return f"{ledger.of.article.declared} " + "; ".join(f"{name}: {value}" for name, value in told.items()) + "."


def heading(ledger: Ledger) -> str:
    """The title of a page on the ledger."""
    return f"{ledger.of.article.short}: {counted(len(ledger.judged), 'claim')}, protocol {ledger.of.name}"


def markdown(ledger: Ledger) -> bytes:
    """The ledger as a Markdown document."""
    return ("\n".join(_markdown(ledger)) + "\n").encode()


def _markdown(ledger: Ledger) -> Iterator[str]:
    yield f"# {heading(ledger)}\n"
    yield f"{counts(ledger).capitalize()}.\n"
    yield from _markdown_table(
        ledger,
        ("#", "claim", "verdict", "decided by", "test", "difference [95 % interval]", "p, Holm", "n",
         "interim analyses at", "arms", "reason"),
        [(str(e.claim.number), e.claim.says, f"**{e.verdict}**", e.shown.label, e.shown.method, interval(e.shown),
          p_holm(e), n_runs(e.shown), looks(e), ", ".join(_markdown_arm(ledger, arm) for arm in e.claim.question.arms),
          e.reason)
         for e in ledger.judged],
    )  # fmt: skip
    yield f"\n![{PICTURED}](ledger.png)\n"
    yield "## What counts as supported\n"
    yield from _markdown_table(
        ledger,
        ("#", "supported if", "notes"),
        [(str(e.claim.number), e.claim.question.words,
          (f"Section: {e.claim.section}. " if e.claim.section else "")
          + "".join(f"{name}: {value:.3f}. " for name, value in e.facts.items()) + " ".join(e.claim.notes))
         for e in ledger.judged],
    )  # fmt: skip
    yield f"\n{ledger.method}\n"
    article = ledger.of.article
    yield "## What we chose\n"
    yield from (f"- {text}" for text in article.choices)
    if article.contradictions:
        yield "\n## Where the article contradicts itself\n"
        yield from (f"- {text}" for text in article.contradictions)
    yield "\n## Runs\n"
    yield from _markdown_table(
        ledger,
        ("arm", "seeds", "diverged", "MLflow runs"),
        [(arm, str(len(runs)), str(diverged(runs)), " ".join(_markdown_run(ledger, run) for run in runs))
         for arm, runs in ledger.runs.items()],
    )  # fmt: skip


def _markdown_arm(ledger: Ledger, arm: str) -> str:
    """The name of an arm, and links to its runs."""
    return " ".join([arm, *(f"[{seed}]({link})" for seed, link in linked_runs(ledger, arm))])


def _markdown_run(ledger: Ledger, run: ArmRun) -> str:
    link = link_of(ledger, run)
    return f"[{run.seed}]({link})" if link else str(run.seed)


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
    title = heading(ledger)
    panels = [
        (label, [e for e in ledger.judged if e.shown.unit == unit and math.isfinite(e.shown.low)])
        for unit, label in PANELS
    ]
    panels = [(label, entries) for label, entries in panels if entries]
    if not panels:
        return notice(title, "No claim has an interval yet: that needs two seeds of each arm.")
    figure = new_figure(title, "Distance from the claim's bound, with its 95 % interval; right favours the claim.")
    figure.set_size_inches(10, 7)
    for axes, (label, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, label, entries)
    marks = [(Line2D([], [], color=color, marker="o", markersize=5, linewidth=1.8), name,
              any(e.verdict == name for _, entries in panels for e in entries))
             for name, color in COLORS.items()]  # fmt: skip
    add_legend(figure, *marks)
    return as_png(figure)


def _draw_panel(axes: Axes, label: str, entries: Sequence[Judged]) -> None:
    decorate(axes, "", "x")
    axes.set_xlabel(label, fontsize=10, color=SOFT_INK)
    round_ticks(axes.xaxis, plain_tick)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    axes.set_ylim(max(len(entries), 4) - 0.5, -0.5)
    axes.set_yticks(range(len(entries)), [f"{e.claim.number}" for e in entries])
    for height, entry in enumerate(entries):
        low, middle, high = favouring(entry.shown)
        color = COLORS[entry.verdict]
        axes.plot([low, high], [height, height], color=color, linewidth=1.8, zorder=3)
        axes.plot([middle], [height], "o", color=color, markersize=5, zorder=4)
        add_note(axes, shorten(entry.claim.says, 44), (0, height), (4, 9), ("axes fraction", "data"), fontsize=7,
                 color=SOFT_INK)  # fmt: skip


def favouring(shown: Shown) -> tuple[float, float, float]:
    """Low end, estimate and high end as distances from the bound, positive where they favour the claim."""
    scale = shown.direction * (100 if shown.unit == "points" else 1)
    ends = [scale * (value - shown.null) for value in (shown.low, shown.estimate, shown.high)]
    return min(ends[0], ends[2]), ends[1], max(ends[0], ends[2])
