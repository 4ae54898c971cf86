"""Take the pictures of `sweeper serve` that the documentation shows.

    python docs/serve_screenshots.py

Serves a new home, runs a sweep of 20 trials against it with two workers, and opens MLflow's table of runs and the
Optuna dashboard in Debian's chromium (package chromium; another one by CHROMIUM=/path). Writes docs/images/serve-*.png.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright
from screenshots import CHROMIUM, FLAGS, IMAGES, ORDER, SHOWN, open_page, show_columns

SWEEPER = (sys.executable, "-m", "sweeper")
SWEEP = ("--study", "served", "--trials", "20", "--workers", "2", "--exp", "6", "--model", "small", "--epochs", "4",
         "--dataset", "sample")  # fmt: skip
FILTER = "tags.`sweeper.kind` = 'trial' and tags.`sweeper.state` = 'complete'"


def served(process: subprocess.Popen[str]) -> tuple[dict[str, str], str, str]:
    """What `sweeper serve` prints once it is ready: the environment, the address of the runs, that of the trials."""
    assert process.stdout is not None
    env: dict[str, str] = {}
    addresses: dict[str, str] = {}
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            env[name] = value
        elif line.startswith(("# runs:", "# trials:")):
            name, _, address = line.removeprefix("# ").partition(":")
            addresses[name] = address.strip()
        if addresses.keys() == {"runs", "trials"}:
            return env, addresses["runs"], addresses["trials"]
    raise SystemExit("sweeper serve did not start")


def photograph(runs: str, trials: str) -> None:
    """Write the pictures."""
    base = runs.partition("/#/")[0]
    columns: Sequence[str] = SHOWN[:1] + SHOWN[2:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 950})
        open_page(page, runs, "bn-dropout")
        page.get_by_role("link", name="bn-dropout").first.click()
        page.wait_for_url("**/experiments/*/**")
        experiment = page.url.partition("/experiments/")[2].partition("/")[0]
        table = f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning&{ORDER}"
        open_page(page, f"{table}&searchFilter={quote(FILTER)}&startTime=ALL&lifecycleFilter=Active", "matching runs")
        show_columns(page, hide=("Dataset", "Source", "Models"), show=tuple(columns))
        page.screenshot(path=IMAGES / "serve-mlflow.png")
        open_page(page, trials, "served")
        page.get_by_text("1. served").click()
        page.get_by_text("Timeline").first.wait_for()
        page.wait_for_timeout(8_000)  # charts are drawn one after another, and no event tells their end
        page.screenshot(path=IMAGES / "serve-dashboard.png")
        browser.close()


def main() -> None:
    """Serve, sweep, take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)  # under root, PostgreSQL runs as another user
        for name in ("served", "own"):
            (home / name).mkdir()
        ports = ("--port", "5055", "--dashboard-port", "8055")
        command = [*SWEEPER, "serve", "--home", str(home / "served"), *ports]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                env, runs, trials = served(server)
                env |= {"SWEEPER_HOME": str(home / "own")}
                subprocess.run([*SWEEPER, "optimize", *SWEEP], env=os.environ | env, check=True)
                photograph(runs, trials)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
