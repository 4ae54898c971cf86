"""One study, and one folder of a command, for the tests of the driver and of its commands."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sweeper.core.environment import EXPERIMENT
from sweeper.core.experiments import experiment
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR
from sweeper.engine.choice import EngineChoice
from sweeper.study.known import Known
from sweeper.study.opening import open_study
from sweeper.study.space import Choice, Space, default_space
from sweeper.study.study import Study, StudySettings
from sweeper.sweep.optimize import optimize
from sweeper.sweep.options import SweepOptions
from sweeper.sweep.train import train_one
from tests.support.recorder import BASE
from tests.support.spoken import Spoken

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from sweeper.core.config import RunConfig

FEW = Space({"batch_size": Choice((512, 1024))})


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[..., Study]]:
    """Open the one study of a test, as another process would after the last one ended."""
    opened: list[Study] = []

    def open_it(space: Space | None = None, metric: str = "val/accuracy", **base: Any) -> Study:
        for study in opened:
            study.close()
        settings = StudySettings(
            BASE.derive(**base), space or default_space(), "0" * 64, sampler="random", metric=metric
        )
        opened.append(open_study("study", settings, f"sqlite:///{tmp_path / 'sweeper.db'}"))
        return opened[-1]

    yield open_it
    opened[-1].close()


class Place(Spoken):
    """A home for commands on the sample."""

    def use_mlflow(self, empty_store: Path) -> None:
        self.tracking_uri = f"sqlite:///{shutil.copy(empty_store, self.home)}"

    def config(self, **fields: Any) -> RunConfig:
        return experiment(1, **{"split": "holdout", "epochs": 1, "train_images": 1_200, **fields})

    def train(self, dataset: str = "sample", **fields: Any) -> dict[str, Any]:
        config = self.config(**fields)
        return train_one(self.environment, config, dataset=dataset, device="cpu", precision="fp32").plain()

    def options(self, space: Space = FEW, trials: int = 2, **options: Any) -> SweepOptions:
        """The options of a sweep; fields of its configuration may be among them."""
        fields = {
            name: options.pop(name) for name in ("split", "folds", "seed", "epochs", "train_images") if name in options
        }
        fixed = {"study": "few", "sampler": "random", "pruner": "none", "final": False, "dataset": "sample",
                 "device": "cpu", "precision": "fp32", "engine": EngineChoice("serial")}  # fmt: skip
        return SweepOptions(self.config(**fields), space, trials, **(fixed | options))

    def optimize(
        self, space: Space = FEW, trials: int = 2, known: Sequence[Known] = (), **options: Any
    ) -> dict[str, Any]:
        """Run a sweep in this process."""
        return optimize(self.environment, self.options(space, trials, **options), known)

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=f"sqlite:///{self.home / 'mlflow.db'}")

    def runs(self, kind: str = "") -> list[Run]:
        """The runs in MLflow, or those of one kind."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        assert found is not None
        runs = self.client.search_runs([found.experiment_id], run_view_type=3)
        return [run for run in runs if kind in ("", run.data.tags["sweeper.kind"])]

    def kinds(self) -> dict[str, int]:
        return Counter(run.data.tags["sweeper.kind"] for run in self.runs())

    def artifacts(self, run: Run) -> dict[str, Path]:
        root = self.home / "mlartifacts" / run.info.run_id / "artifacts"
        return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def finished(finished_sweep: Any) -> Place:
    """Six trials and their champion, to be looked at only."""
    return Place(finished_sweep.home)


@pytest.fixture
def without_test_images(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test files of the sample are damaged: to read them is an error."""
    folder = tmp_path_factory.mktemp("sample")
    for file in SAMPLE.train:
        shutil.copy(SAMPLE_DIR / f"{file.name}.gz", folder)
    for file in SAMPLE.test:
        (folder / f"{file.name}.gz").write_bytes(b"nothing to be seen here")
    monkeypatch.setattr("sweeper.data.fashion.SAMPLE_DIR", folder)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process have one thread, as everywhere in the tests."""
    for module in ("sweep.train", "engine.choice", "sweep.champion", "sweep.examine"):
        monkeypatch.setattr(f"sweeper.{module}.cores", lambda: 1)
