"""Write the results of a finished reproduction into the documentation.

    python docs/record_reproduction.py HOME PROTOCOL [ARTICLE]
    python docs/record_reproduction.py

HOME is the SWEEPER_HOME in which `sweeper reproduce --protocol PROTOCOL --article ARTICLE` ran. Its runs are packed
into docs/results/LABEL.tar.gz; LABEL is PROTOCOL, of other articles than learnopencv ARTICLE-PROTOCOL. From this
recording come docs/results/LABEL.md (the arms with n, mean and spread, and the ledger), LABEL.json (the ledger),
LABEL.sha256 (of each run's journal), and, with Debian's chromium (another one by CHROMIUM=/path), the pictures
docs/images/study-LABEL-*.png. Without arguments, the pages of all recordings are written again.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from playwright.sync_api import sync_playwright
from report_screenshots import CHROMIUM, FLAGS, IMAGES, open_report

from sweeper.core.environment import JOURNAL, Environment
from sweeper.replication.article import DEFAULT, Reproduction
from sweeper.replication.articles import ARTICLES, find_article, reproduction
from sweeper.replication.recording import export_runs, journal_of
from sweeper.replication.runs import ArmRun, each, images, read_runs, starts
from sweeper.replication.verify import publish, report, verify
from sweeper.tracking.reading import EVENTS, read_events

RESULTS = Path(__file__).parent / "results"


def environment(home: Path) -> Environment:
    return Environment(home, "offline", "", None, False, print, print)


def provenance(runs: Mapping[str, list[ArmRun]]) -> Iterator[str]:
    """On what the runs were trained: each value with the number of runs that have it."""
    starts = [read_events(run.folder)[0] for of_arm in runs.values() for run in of_arm]
    ours = ("hardware", "threads", "versions", "dataset_sha256", "engine")
    tags = (*(f"sweeper.{name}" for name in ours), "mlflow.source.git.commit")
    for name in tags:
        counts = Counter(start["tags"].get(name, "none") for start in starts)
        yield f"- {name.rpartition('.')[2]}: " + "; ".join(f"{value} ({count} runs)" for value, count in counts.items())
    for name in ("precision", "device", "train_images"):
        counts = Counter(start["params"][name] for start in starts)
        yield f"- {name}: " + "; ".join(f"{value} ({count} runs)" for value, count in counts.items())


def arms(runs: Mapping[str, list[ArmRun]]) -> Iterator[str]:
    """The arms as a table: at the last epoch, mean and standard deviation over seeds."""
    yield "| arm | seeds | accuracy, % | sd | NLL, nats | sd | gap (NLL) | s an epoch |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm, of_arm in runs.items():
        complete = [run for run in of_arm if run.epochs and run.state == "complete"]
        if not complete:
            yield f"| {arm} | 0 of {len(of_arm)} | | | | | | |"
            continue
        last = [run.epochs[-1] for run in complete]
        columns = [[100 * e["val/accuracy"] for e in last], [e["val/loss"] for e in last]]
        spread = [f"{statistics.fmean(c):.{d}f} | {statistics.stdev(c):.{d}f}" if len(c) > 1 else f"{c[0]:.{d}f} | "
                  for c, d in zip(columns, (2, 4), strict=True)]  # fmt: skip
        gap = statistics.fmean(e["gap/loss"] for e in last)
        seconds = statistics.median(e["time/epoch_s"] for run in complete for e in run.epochs)
        yield f"| {arm} | {len(complete)} | {spread[0]} | {spread[1]} | {gap:+.4f} | {seconds:.1f} |"


def hashes(journal: Path, of: Reproduction) -> Iterator[str]:
    """SHA-256 of each run's record, as sha256sum prints it."""
    for path in sorted((journal / of.folder).glob(f"*/seed-*/{EVENTS}")):
        yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(journal)}"


def photograph(page_file: Path, section: str, image: Path) -> None:
    """Take a picture of a section of the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = open_report(browser, page_file, 1280, 860, "light")
        page.locator(section).screenshot(path=image)
        browser.close()


def record(home: Path, of: Reproduction) -> None:
    """Pack the runs of a home, and write their pages."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{of.label}.tar.gz"
    file.unlink(missing_ok=True)
    export_runs(environment(home), of, file)
    write_pages(file, of)


def write_pages(file: Path, of: Reproduction) -> None:
    """Write the pages of a recording."""
    IMAGES.mkdir(exist_ok=True)
    section = "figures-4-to-11" if of.article.name == DEFAULT else "curves"
    with tempfile.TemporaryDirectory() as made, journal_of(file, of) as journal:
        env = environment(Path(made))
        (env.home / JOURNAL).symlink_to(journal)
        runs = read_runs(journal, of)
        _, result = publish(env, verify(journal, of))
        folder = Path(result["report"])
        (RESULTS / f"{of.label}.md").write_text("\n".join(page(folder, of, runs)))
        (RESULTS / f"{of.label}.json").write_bytes((folder / "ledger.json").read_bytes())
        (RESULTS / f"{of.label}.sha256").write_text("\n".join(hashes(journal, of)) + "\n")
        (IMAGES / f"study-{of.label}-forest.png").write_bytes((folder / "ledger.png").read_bytes())
        page_file = env.home / "report.html"
        page_file.write_bytes(report(env, of, runs)[0])
        photograph(page_file, f"#{section}", IMAGES / f"study-{of.label}-{section}.png")


def page(folder: Path, of: Reproduction, runs: Mapping[str, list[ArmRun]]) -> Iterator[str]:
    """The page of a reproduction: where it comes from, its arms, and the ledger in `folder`."""
    ledger = (folder / "ledger.md").read_text().replace("](ledger.png)", f"](../images/study-{of.label}-forest.png)")
    yield from (f"# Results: {of.words}", "", f"Written by `docs/record_reproduction.py`: {of.protocol.title}.", "")
    yield from ("## Provenance", "", *provenance(runs))
    yield f"- journals: [{of.label}.sha256]({of.label}.sha256), packed in [{of.label}.tar.gz]({of.label}.tar.gz)"
    yield from ("", "## Arms", "", f"At the last epoch; {each(starts(runs), images)}.", "", *arms(runs), "")
    yield ledger.replace("\n# ", "\n## ").replace("# ", "## ", 1)


def labelled(label: str) -> Reproduction:
    """The article and the protocol of a file in docs/results."""
    all_of_them = (reproduction(name, protocol) for name in ARTICLES for protocol in find_article(name).protocols)
    return next(of for of in all_of_them if of.label == label)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        record(Path(sys.argv[1]), reproduction(*sys.argv[3:] or [DEFAULT], sys.argv[2]))
    else:
        for recording in sorted(RESULTS.glob("*.tar.gz")):
            write_pages(recording, labelled(recording.name.removesuffix(".tar.gz")))
