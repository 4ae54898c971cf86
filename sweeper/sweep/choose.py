"""What the trainings of a command run on. torch, which knows, is imported where it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.core.experiments import experiment
from sweeper.data.fashion import Manifest, resolve
from sweeper.engine.aside import call


class Machine(NamedTuple):
    """A device and a precision that it has, and what computes there, in words."""

    device: str
    precision: str
    hardware: str


def find_machine(device: str, precision: str) -> Machine:
    """The device and the precision with `auto` resolved.

    Raises:
        ConfigError: they are not to be had here.
    """
    from sweeper.training.device import hardware, resolve_device, resolve_precision

    device = resolve_device(device)
    return Machine(device, resolve_precision(precision, device), hardware(device))


@dataclass(frozen=True)
class Chosen:
    """A configuration with everything resolved that `auto` left open, and the data set it is for."""

    config: RunConfig
    manifest: Manifest
    folder: Path
    substituted: bool  # the sample stands in for FashionMNIST
    hardware: str  # that computes, in words


def choose(env: Environment, number: int, name: str, device: str, precision: str, fields: dict[str, Any]) -> Chosen:
    """The configuration of experiment `number` with `fields`, for this machine and the data set `name`.

    Raises:
        ConfigError, DataError: a value is wrong, or the data set is not there.
    """
    config = experiment(number, **fields)  # before anything is looked for
    machine = call(find_machine, device, precision)
    manifest, folder = resolve(name, env.data_dir)
    substituted = name == "auto" and manifest.name == "sample"
    if substituted:
        env.warn(
            "FashionMNIST was not found and cannot be downloaded: using the embedded sample of 8,000 of its images "
            "(say --dataset sample to mean it, or --data-dir to name the full set)"
        )
    config = config.derive(device=machine.device, precision=machine.precision, dataset=manifest.name)
    return Chosen(config, manifest, folder, substituted, machine.hardware)
