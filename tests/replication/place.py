"""A place where a reproduction takes tenths of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import TrainingError
from sweeper.core.results import Training
from sweeper.engine.choice import EngineChoice
from sweeper.replication import reproduce
from sweeper.replication.article import Arm, Protocol
from sweeper.replication.plan import Options
from sweeper.replication.reproduce import choose_machine
from sweeper.replication.runs import ArmRun, read_runs
from sweeper.tracking.reading import read_events
from sweeper.training.start import training
from tests.replication.drawn import QUICK
from tests.support.spoken import Spoken

TINY = Protocol("quick", "for tests", seeds=2, train_images=600, epochs=1)  # batch-512 takes 512
SMALL = {name: Arm("", base, {"model": "small", "lr": 2e-3}) for name, base in (("exp2", 2), ("exp4", 4))}


class Place(Spoken):
    """A home for reproductions."""

    @property
    def root(self) -> Path:
        return self.home / "journal/reproduce-quick"

    def reproduce(self, *experiments: int, command: Any = reproduce.reproduce, **options: Any) -> dict[str, Any]:
        """Reproduce experiments, by default 1 alone, in this process."""
        chosen = choose_machine(self.environment, "sample", "cpu", options.pop("precision", "fp32"))
        workers = options.pop("workers", 1)
        engine = EngineChoice("serial") if workers == 1 else EngineChoice(workers=workers)
        asked = Options(QUICK, experiments or (1,), **({"only_experiments": True, "engine": engine} | options))
        return command(self.environment, chosen, asked)

    def runs(self) -> dict[str, list[ArmRun]]:
        return read_runs(self.home / "journal", QUICK)

    def events(self, run: str) -> list[dict[str, Any]]:
        return read_events(self.root / run)

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.home.rglob("*") if path.is_file() and path.name != ".lock"}


def breaks(monkeypatch: pytest.MonkeyPatch, *reasons: str) -> None:
    """Let the training of seed n fail with the nth reason, if it is not empty."""

    def failing(config: RunConfig, data: Any) -> Training:
        if config.seed < len(reasons) and reasons[config.seed]:
            raise TrainingError(reasons[config.seed])
        return (yield from training(config, data))

    monkeypatch.setattr("sweeper.engine.serial.start", failing)
