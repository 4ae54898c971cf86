"""The restore drill of `make docker-test`: back up while a sweep writes, lose everything, restore, compare.

It compares each parameter and each value of each epoch, in MLflow and in the study (the points), and each file of the
finished runs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engines import Engine

NIGHT: Final = "sweeper-test-night"  # the container of the detached driver
STUDY: Final = ("--study", "night", "--dataset", "sample", "--model", "small", "--epochs", "2")
TRIALS: Final = 12
COMMAND: Final = ("optimize", "--trials", str(TRIALS), "--json", *STUDY, "--finalists", "0", "--no-final")
POINTS: Final = {
    "mlflow": "SELECT run_uuid, key, step, value, timestamp, is_nan FROM metrics UNION ALL "
    "SELECT run_uuid, key, 0, 0, 0, false FROM params",
    "optuna": "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values UNION ALL "
    "SELECT trial_id, -1, value FROM trial_values",
}
FILES: Final = "cd /var/lib/sweeper && find . -type f -exec sha256sum {} +"
POINTS_SECONDS: Final = 600.0

Expect = Callable[[bool, str], None]


@dataclass(frozen=True)
class Drill:
    """The installation that the drill is held on."""

    found: Engine
    project: str
    work: Path
    driver: tuple[str, ...]  # the words of `compose run` for a driver
    expect: Expect
    start: Callable[[Engine, str], dict[str, str]]

    def _container(self, service: str) -> str:
        return self.found.containers(self.project, service)[0]

    def points(self) -> set[str]:
        """Everything that was measured, one line each."""
        found: set[str] = set()
        for database, statement in POINTS.items():
            login = f'PGPASSWORD="$(cat /run/secrets/{database}-database-password)"'
            asked = f'{login} psql -h 127.0.0.1 -U {database} -d {database} -Atc "{statement}"'
            lines = self.found.run("exec", self._container("postgres"), "sh", "-c", asked).splitlines()
            found |= {f"{database}|{line}" for line in lines}
        return found

    def files(self) -> set[str]:
        """The files of all runs, with their SHA-256."""
        return set(self.found.run("exec", self._container("mlflow"), "sh", "-c", FILES).splitlines())

    def stack(self, *words: str) -> None:
        """Run a command of stack.py, and show what it prints."""
        said = self.found.stack(*words).strip()
        self.expect(bool(said), f"stack.py {words[0]}: {said}")

    def status(self) -> dict[str, Any]:
        """What `sweeper status --json` says of the sweep."""
        said = self.found.composed(*self.driver, "status", "night", "--json").strip().splitlines()[-1]
        status: dict[str, Any] = json.loads(said)
        return status

    def wait_for_points(self, known: set[str]) -> set[str]:
        """Wait until there is a point of a trial that is not known."""
        until = time.monotonic() + POINTS_SECONDS
        while not [line for line in self.points() - known if line.startswith("optuna")]:
            if time.monotonic() > until:
                self.expect(False, f"an epoch of the detached driver:\n{self.found.run('logs', '--tail', '20', NIGHT)}")
            time.sleep(1)
        return self.points()

    def hold(self, run_on: tuple[str, ...]) -> None:
        """Hold the drill, after a sweep that has finished."""
        files, finished = self.files(), self.points()
        detached = tuple("--detach" if word == "--rm" else word for word in self.driver)
        named = (*detached[:-1], "--name", NIGHT, detached[-1])
        self.found.composed(*named, *COMMAND, *run_on)
        before = self.wait_for_points(finished)
        self.expect(bool(self.status()["driver"]), "sweeper status says that a driver is alive")
        self.stack("backup", str(self.work / "backups"))
        state = self.found.run("inspect", "--format", "{{.State.Running}}", NIGHT).strip()
        self.expect(state == "true", "the sweep went on during the backup")
        self.found.run("kill", NIGHT)
        lost = self.points()
        self._lose()
        (backup,) = (self.work / "backups").iterdir()
        self.stack("restore", str(backup))
        for service in ("mlflow", "ray-head", "worker"):
            self.start(self.found, service)
        self._compare(before, lost, files)
        self._go_on(run_on)

    def _lose(self) -> None:
        postgres, mlflow = self._container("postgres"), self._container("mlflow")
        self.found.run("stop", "--time", "5", postgres)
        self.expect(not self.found.is_healthy(mlflow), "mlflow is unhealthy without its database")
        self.found.run("rm", "--force", NIGHT)
        self.found.composed("--profile", "driver", "--profile", "dashboard", "down", "--volumes", "--timeout", "5")
        secrets = Path(self.found.environment["SWEEPER_SECRETS"])
        shutil.rmtree(secrets)
        left = self.found.run("volume", "ls", "--quiet").split()
        self.expect(not [name for name in left if self.project in name], "containers, volumes and secrets are lost")

    def _compare(self, before: set[str], lost: set[str], files: set[str]) -> None:
        now = self.points()
        self.expect(before <= now, f"all {len(before)} points from before the backup are restored")
        self.expect(now <= lost, f"all {len(now)} restored points are those that were lost ({len(lost)})")
        self.expect(files <= self.files(), f"all {len(files)} files of the finished runs are restored")
        self.expect(self.status()["driver"] is None, "sweeper status says that no driver is alive")

    def _go_on(self, run_on: tuple[str, ...]) -> None:
        said = self.found.composed(*self.driver, *COMMAND, *run_on).strip().splitlines()[-1]
        summary = json.loads(said)
        done = summary["complete"] + summary["pruned"]
        self.expect(summary["finished"] == done == TRIALS, f"the restored sweep goes on to {TRIALS} trials: {said}")

    def upgrade(self) -> None:
        """Upgrade the databases to what they are, with a backup before it; all points stay."""
        before = self.points()
        self.stack("upgrade", str(self.work / "backups"), "--keep", "1")
        self.start(self.found, "mlflow")
        self.expect(self.points() == before, f"all {len(before)} points are there after the upgrade")
        kept = [path.name for path in (self.work / "backups").iterdir()]
        self.expect(len(kept) == 1, f"one backup is kept: {kept}")
