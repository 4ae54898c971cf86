"""Take the pictures of MLflow's UI that the documentation shows, from a finished sweep.

    python docs/screenshots.py HOME [STUDY]

HOME is the SWEEPER_HOME of the sweep, such as `demo`. Starts an MLflow server on its database, opens it in
Debian's chromium (package chromium; another one by CHROMIUM=/path) and writes docs/images/*.png.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Error, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
SHOWN = ("final/val_accuracy", "final/val_loss", "placement", "conv_dropout", "head_dropout", "batch_size")
ORDER = "orderByKey=" + quote("metrics.`final/val_accuracy`") + "&orderByAsc=false"


@contextlib.contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """An MLflow server on the database in `home`; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{home.resolve() / 'mlflow.db'}"]  # fmt: skip
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    base = f"http://127.0.0.1:{port}"
    try:
        while not _healthy(base):
            if process.poll() is not None:
                raise SystemExit("the MLflow server did not start")
        yield base
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _healthy(base: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health", timeout=1):
        return True
    return False


def open_page(page: Page, url: str, text: str) -> None:
    """Open `url` and wait until `text` is there and the assistant's panel is not."""
    page.goto("about:blank")
    page.goto(url)
    page.get_by_text(text).first.wait_for(timeout=60_000)
    close = page.get_by_role("button", name="Close").first
    with contextlib.suppress(Error):
        close.click(timeout=5_000)
    page.wait_for_timeout(4_000)  # charts animate, and no event tells their end


def show_columns(page: Page, hide: tuple[str, ...], show: tuple[str, ...]) -> None:
    """Choose the columns of the runs table."""
    page.get_by_text("Columns").first.click()
    search = page.get_by_placeholder("Search columns")
    for name in (*hide, *show):
        search.fill(name)
        page.wait_for_timeout(300)
        page.get_by_test_id("column-selector-tree").get_by_text(name, exact=True).first.click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(2_000)


def main(home: Path, study: str) -> None:
    """Write the three pictures."""
    from mlflow import MlflowClient

    IMAGES.mkdir(exist_ok=True)
    client = MlflowClient(f"sqlite:///{home.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bn-dropout").experiment_id
    filters = (
        f"tags.`sweeper.study` = '{study}' and tags.`sweeper.state` = 'complete' and tags.`sweeper.kind` = 'trial' "
        "and metrics.`time/epoch_s` > 0"  # not those that repeat another trial
    )
    runs = client.search_runs([experiment], filters, order_by=["metrics.`final/val_accuracy` DESC"])
    table = (
        f"#/experiments/{experiment}/runs?workflowType=machine_learning&{ORDER}"
        f"&searchFilter={quote(filters)}&startTime=ALL&lifecycleFilter=Active"
    )
    ids = quote(json.dumps([run.info.run_id for run in runs]))
    with mlflow_server(home) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        open_page(page, f"{base}/{table}", runs[0].info.run_name)
        show_columns(page, hide=("Dataset", "Source", "Models"), show=SHOWN)
        page.screenshot(path=IMAGES / "runs-table.png")
        open_page(page, f"{base}/{table}&compareRunsMode=CHART", runs[0].info.run_name)
        page.get_by_placeholder("Search metric charts").fill("val/")
        page.wait_for_timeout(4_000)
        page.screenshot(path=IMAGES / "overlaid-curves.png")
        open_page(page, f"{base}/#/compare-runs?runs={ids}&experiments=%5B%22{experiment}%22%5D", "Parallel")
        page.screenshot(path=IMAGES / "parallel-coordinates.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "demo")
