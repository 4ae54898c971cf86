"""The article's figures 4 to 11 for print: the same curves as on the page, in one PNG image."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sweeper.core.experiments import EXPERIMENT_TITLES
from sweeper.replication.article import ProtocolName
from sweeper.replication.claims.ledger import Runs
from sweeper.replication.pages.charts import (
    METRICS,
    PUBLISHED,
    SPLITS,
    Ranges,
    common_ranges,
    complete_experiments,
    curve,
)
from sweeper.replication.runs import ArmRun
from sweeper.report.figure import (
    BLUE,
    SOFT_INK,
    add_legend,
    add_note,
    as_png,
    backing,
    counted,
    decorate,
    is_room_above,
    new_figure,
    notice,
    percent,
    percent_tick,
    plain_tick,
    whole_numbers,
)

HEIGHT: Final = 11.0  # inches
ACROSS: Final = 4  # figures beside one another, each accuracy above loss
NAMES: Final = {"train": "train", "val": "validation"}


def article_print(runs: Runs, protocol: ProtocolName) -> bytes:
    """The eight figures on common axes, as a PNG image of 1500 x 1650 pixels.

    Args:
        runs: the finished runs of each arm, by `runs.read_runs`. An experiment without one has empty axes.
        protocol: that they were trained by.
    """
    title = f"The article's figures 4 to 11, protocol {protocol}"
    experiments = complete_experiments(runs)
    if not experiments:
        return notice(title, "None of the eight experiments has a complete run yet.")
    figure = new_figure(title, _summary(experiments), HEIGHT)
    ranges = common_ranges(list(experiments.values()))
    axes = figure.subplots(2 * len(PUBLISHED) // ACROSS, ACROSS, sharex=True)
    for place, number in enumerate(PUBLISHED):
        down, across = divmod(place, ACROSS)
        pair = axes[2 * down : 2 * down + 2, across]
        _draw(pair, number, experiments.get(number, []), ranges)
        for panel in pair:
            panel.tick_params(labelleft=across == 0, labelbottom=panel is pair[1])
        if across == 0:
            for panel, name in zip(pair, ("accuracy", "loss (nats)"), strict=True):
                panel.set_ylabel(name, fontsize=9.5, color=SOFT_INK)
    lines = [(Line2D([], [], color=color, linewidth=1.8), NAMES[split], True) for split, color in SPLITS.items()]
    add_legend(figure, *lines)
    return as_png(figure)


def _summary(experiments: Mapping[int, Sequence[ArmRun]]) -> str:
    seeds = sorted({len(runs) for runs in experiments.values()})
    count = counted(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"Mean of {count} within their range; in blue the validation value after the last epoch."


def _draw(pair: Sequence[Axes], number: int, runs: Sequence[ArmRun], ranges: Ranges) -> None:
    """One of the article's figures: accuracy above loss."""
    words = textwrap.wrap(EXPERIMENT_TITLES[number], 26)
    decorate(pair[0], "\n".join([f"Figure {PUBLISHED[number].figure}: experiment {number}", *words]), "both")
    decorate(pair[1], "", "both")
    for panel, metric, limits, tick in zip(pair, METRICS, ranges[1:], (percent_tick, plain_tick), strict=True):
        whole_numbers(panel, "epoch" if panel is pair[1] else "", *ranges.epochs)
        panel.set_xlim(*ranges.epochs)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_ylim(*limits)
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        panel.yaxis.set_major_formatter(FuncFormatter(tick))
        if not runs:
            add_note(panel, "not trained yet", (0.5, 0.5), (0, 0), "axes fraction", ha="center", color=SOFT_INK)
            continue
        drawn: list[float] = []  # values of the second half of the epochs, where the number stands
        for split, color in SPLITS.items():  # val is the last
            found = curve(runs, f"{split}/{metric}")
            panel.fill_between(found.epochs, found.low, found.high, color=color, alpha=0.22, linewidth=0)
            panel.plot(found.epochs, found.mean, color=color, linewidth=1.6, zorder=3)
            drawn += [value for band in (found.low, found.high) for value in band[-max(1, len(band) // 2) :]]
        height, side = (0.97, "top") if is_room_above(drawn, *limits) else (0.03, "bottom")
        last = percent(found.mean[-1]) if metric == "accuracy" else f"{found.mean[-1]:.3f}"
        add_note(panel, last, (1, height), (-4, 0), "axes fraction", ha="right", va=side, color=BLUE, bbox=backing())
