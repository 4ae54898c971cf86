"""Registered models: the champion of a sweep as a version in MLflow's model registry."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.numpy

from sweeper.core.errors import DataError
from sweeper.core.inside import read_inside
from sweeper.core.results import hash_weights
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import read_state, update_state
from sweeper.tracking.notes import MARK, Note, describe_model, describe_version
from sweeper.tracking.reading import ARTIFACTS, WEIGHTS, read_events
from sweeper.tracking.schema import MOST_ARTIFACT

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.models import Model

MODEL: Final = "registered"  # the folder of a run's files with its registered model, on an older server
VARIABLE: Final = "MLFLOW_TRACKING_URI"
WEIGHTS_TAG: Final = "sweeper.weights_sha256"
Save = Callable[[str, "Model"], "Model"]  # takes a folder and the model's description, and returns it completed


class Registry:
    """The model registry of one MLflow store."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def registered(self, folder: Path) -> bool:
        """Return True if `register` has finished for the run of `folder`, or if the run was deleted in MLflow."""
        state = read_state(folder, self._connection.uri)
        return "registered" in state or bool(state.get("deleted"))

    def file(self, folder: Path, name: str) -> bytes:
        """Read a file of an uploaded run from the journal or, if it was removed there, from MLflow."""
        with contextlib.suppress(FileNotFoundError):
            return read_inside(folder, f"{ARTIFACTS}/{name}", MOST_ARTIFACT)
        with TemporaryDirectory() as aside:
            return Path(self._connection.client.download_artifacts(self._run_id(folder), name, aside)).read_bytes()

    def weights(self, folder: Path) -> bytes:
        """Read the weights of a run, if they are those that it recorded.

        Raises:
            DataError: they were changed since.
        """
        content = self.file(folder, WEIGHTS)
        recorded = [event["tags"][WEIGHTS_TAG] for event in read_events(folder) if WEIGHTS_TAG in event.get("tags", {})]
        try:
            found = hash_weights(safetensors.numpy.load(content))
        except safetensors.SafetensorError as error:
            found = f"damaged: {error}"
        if recorded and found != recorded[-1]:
            raise DataError(
                f"{folder / ARTIFACTS / WEIGHTS} does not match the run's {WEIGHTS_TAG}. Restore the "
                "file from a backup, or delete the run's folder to train it again."
            )
        return content

    def register(
        self, folder: Path, save: Save, name: str, alias: str, model: Note, version_note: Callable[[str], Note]
    ) -> str | None:
        """Register the model that `save` writes as a version of `name` with `alias`, and return the version.

        `model` is the note of `name`; `version_note` returns that of a version.
        The version is noted in the run's folder. Calling this again after a crash registers nothing twice. If an
        earlier call has finished, as after `sweeper sync --all` forgot it, return None: a person may have moved the
        alias since.
        """
        run_id, client = self._run_id(folder), self._connection.client
        made = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        version = str(made[0].version) if made else self._log_model(run_id, save, name)
        new = not made or not MARK.keys() <= made[0].tags.keys()
        if new:
            describe_model(client, name, model)
            client.set_registered_model_alias(name, alias, version)
            describe_version(client, name, version, version_note(version))  # its last tag marks the end
        update_state(folder, self._connection.uri, registered=version)
        return version if new else None

    def _log_model(self, run_id: str, save: Save, name: str) -> str:
        """Log the model to a run that has ended, with `Model.log`: `mlflow.pytorch.log_model` would restart the run."""
        from mlflow.exceptions import MlflowException
        from mlflow.models import Model

        connection = self._connection
        _use_store(connection.uri)
        run = connection.client.get_run(run_id)
        try:
            made = connection.client.create_logged_model(
                run.info.experiment_id, "model", run_id, params=run.data.params
            )
        except MlflowException as error:
            if error.error_code != "ENDPOINT_NOT_FOUND":
                raise
            return self._log_to_run(run, save, name)
        self._log_tested(run, made.model_id)
        silence = io.StringIO()  # MLflow prints links and congratulations, to both
        with redirect_stdout(silence), redirect_stderr(silence):
            info = Model.log(
                None,
                _Flavor(save),
                run_id=run_id,
                model_id=made.model_id,
                step=int(run.data.params["epochs"]),  # whose metrics MLflow links to the model; test metrics are at 0
                registered_model_name=name,
                validate_serving_input=False,  # it would load the network, and torch, into this process
            )
        return str(info.registered_model_version)

    def _log_to_run(self, run: Run, save: Save, name: str) -> str:
        """Register the model from the run's files: a server before MLflow 3 has no models apart from runs."""
        from mlflow.exceptions import MlflowException
        from mlflow.models import Model

        client, run_id = self._connection.client, run.info.run_id
        with TemporaryDirectory() as aside:
            folder = Path(aside) / MODEL
            save(str(folder), Model(run_id=run_id, artifact_path=MODEL))
            client.log_artifacts(run_id, str(folder), MODEL)
        with contextlib.suppress(MlflowException):  # it is there
            client.create_registered_model(name)
        return str(client.create_model_version(name, f"{run.info.artifact_uri}/{MODEL}", run_id).version)

    def _log_tested(self, run: Run, model_id: str) -> None:
        """Log the test metrics of a run to its model, too, with the data set: MLflow sorts models by them. The points
        are those of the run, which gets no further ones."""
        from mlflow.entities import Metric

        client, inputs = self._connection.client, run.inputs.dataset_inputs if run.inputs else []
        where = {"dataset_name": inputs[0].dataset.name, "dataset_digest": inputs[0].dataset.digest} if inputs else {}
        names = [name for name in run.data.metrics if name.startswith("test/")]
        points = [client.get_metric_history(run.info.run_id, name)[-1] for name in names]
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id, **where) for p in points],
        )

    def _run_id(self, folder: Path) -> str:
        return str(read_state(folder, self._connection.uri)["run_id"])


def _use_store(uri: str) -> None:
    """Set MLflow's store, but not the variable that MLflow sets with it: the next call from Python may use another."""
    import mlflow

    before = os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before


class _Flavor:
    """A flavor of model to MLflow, which `save` writes."""

    def __init__(self, save: Save) -> None:
        self._save = save

    def save_model(self, path: str, mlflow_model: Model, **_: Any) -> None:
        """Save the model in the folder `path` and complete its description."""
        vars(mlflow_model).update(vars(self._save(path, mlflow_model)))
