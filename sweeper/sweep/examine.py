"""Repeat the X-ray of a recorded run, or take that of any network with weights from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from sweeper.core.config import RunConfig
from sweeper.core.cores import cores
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import ConfigError, DataError, UsageError
from sweeper.core.images import Array
from sweeper.core.inside import read_inside
from sweeper.core.own_code import explained
from sweeper.core.results import hash_weights
from sweeper.core.xray import XRay
from sweeper.sweep.choose import choose
from sweeper.sweep.networks import find_network
from sweeper.sweep.replay import find_folder, find_record, images_of, threads_of
from sweeper.tracking.fetching import fetch_file, read_state
from sweeper.tracking.reading import ARTIFACTS, WEIGHTS
from sweeper.tracking.registry import WEIGHTS_TAG
from sweeper.tracking.schema import MOST_ARTIFACT
from sweeper.training import networks
from sweeper.training.device import resolve_device, use_threads
from sweeper.training.images import load
from sweeper.training.xray.examine import examine_weights


def xray_of_run(env: Environment, run: str) -> dict[str, Any]:
    """Examine the weights of a recorded run, print the table, and return the JSON that `--json` prints.

    `run` is a folder of a journal, or a run in MLflow. The numbers are those that the run recorded, if it has the same
    processor and versions.

    Raises:
        UsageError: there is no such run, or it has no weights.
        DataError: its weights are damaged, or its data set is missing or has changed.
    """
    record = find_record(env, run)
    config = _on_this_machine(env, RunConfig.from_params(record.params))
    weights = read_weights(env, run, record.tags)
    data, *_ = images_of(env, record, config)
    use_threads(threads_of(run, record))
    return say_xray(env, examine_weights(config, weights, data))


def xray_of_file(
    env: Environment, config: RunConfig, file: Path, dataset: str, device: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Examine the network of `config` with the weights of a file, print the table, and return the JSON.

    The batches are those of a training of `config` in fp32. Held-out training images measure the gain of recalibration.

    Args:
        env: of the command.
        config: of the network, its Dropout, and the batches.
        file: `FILE.safetensors`, or a state_dict that `torch.save` wrote.
        dataset: as `--dataset` takes it.
        device: as `--device` takes it.
        given: the fields of `config` that the user gave.

    Raises:
        UsageError: there is no such network, or the file does not hold its weights.
        DataError: the images are missing.
        SweeperError: the network raises an error.
    """
    weights = networks.read_weights(file)
    found = find_network(env, config, dataset, given)
    chosen = choose(env, found.config, dataset, device, "fp32", found.source)
    (data,) = load(chosen.config, chosen.source)
    use_threads(cores())
    with explained(config.model):
        networks.check_fit(networks.build_model(chosen.config, data.spec), weights, file)
        xray = examine_weights(chosen.config, weights, data)
    return say_xray(env, xray)


def say_xray(env: Environment, found: XRay) -> dict[str, Any]:
    """Print an X-ray, and return the JSON that `--json` prints."""
    env.say(str(found))
    return {"advice": found.advice, **json.loads(found.json())}


def _on_this_machine(env: Environment, config: RunConfig) -> RunConfig:
    """Return `config`, on the CPU if its device is missing."""
    try:
        resolve_device(config.device)
    except ConfigError as error:
        env.warn(f"{error}. The CPU is used instead.")
        return config.derive(device="cpu")
    return config


def read_weights(env: Environment, run: str, tags: Mapping[str, str]) -> dict[str, Array]:
    """Return the weights of a run by name, if they are those that it recorded."""
    try:
        weights: dict[str, Array] = safetensors.numpy.load(_read_file(env, run))
    except FileNotFoundError:
        why = "Only a run that is complete has them, and cross-validation keeps none."
        raise UsageError(f"run {run[:60]!r} has no weights ({WEIGHTS}) to examine. {why}") from None
    except safetensors.SafetensorError as error:
        raise DataError(f"{WEIGHTS} of run {run[:60]!r} is damaged ({error}). Restore it from a backup.") from None
    recorded = tags.get(WEIGHTS_TAG)
    if recorded and hash_weights(weights) != recorded:
        raise DataError(f"{WEIGHTS} of run {run[:60]!r} does not match its {WEIGHTS_TAG}. Restore it from a backup.")
    return weights


def _read_file(env: Environment, run: str) -> bytes:
    """Read the file of the weights in the journal or, if it was freed there, in MLflow."""
    run_id: str | None = run
    if folder := find_folder(env, run):
        try:
            return read_inside(folder, f"{ARTIFACTS}/{WEIGHTS}", MOST_ARTIFACT)
        except FileNotFoundError:
            if env.tracking_uri in (OFFLINE, NONE):
                raise
            run_id = read_state(folder, env.tracking_uri)["run_id"]
    if run_id is None:
        raise FileNotFoundError(WEIGHTS)
    return fetch_file(env.tracking_uri, run_id, WEIGHTS, env.experiment)
