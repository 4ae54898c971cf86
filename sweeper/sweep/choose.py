"""Choose the data set, device and precision of a command's runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.core.config import RunConfig
from sweeper.core.environment import Environment
from sweeper.data.images import ImageSource
from sweeper.data.own import check_unchanged
from sweeper.data.sources import find
from sweeper.engine.aside import call
from sweeper.sweep.networks import network_for


@dataclass(frozen=True)
class Chosen:
    """A configuration with every `auto` resolved, and its data set."""

    config: RunConfig
    source: ImageSource
    code: Mapping[str, bytes]  # the file of the network's factory, under the name that a run logs it as
    substituted: bool  # the sample stands in for FashionMNIST
    hardware: str  # the processor that computes, in words


def choose(
    env: Environment, config: RunConfig, dataset: str, device: str, precision: str, source: ImageSource | None = None
) -> Chosen:  # fmt: skip
    """Complete `config` for this machine and the data set; each of data set, device and precision may be `auto`.

    `source` is the data set, if it has been read already. If `config` names the SHA-256 of its images, they must have
    it.

    Raises:
        ConfigError, DataError: a value is wrong, or the data set is missing or has changed.
        UsageError: there is no such factory.
    """
    config = config if dataset == "auto" else config.derive(dataset=dataset)
    device, precision, hardware = call(find_machine, device, precision)
    if source is None:
        name = "auto" if dataset == "auto" else config.dataset
        source = find(name, env.data_dir, config.image_size, env.say)
    check_unchanged(config.dataset, config.dataset_sha256, source.spec.sha256)
    substituted = dataset == "auto" and source.spec.name == "sample"
    if substituted:
        env.warn(
            "FashionMNIST was not found and cannot be downloaded: using the embedded sample of 8,000 of its images. "
            "Name the full data set with --data-dir, or silence this warning with --dataset sample."
        )
    spec = source.spec
    config = config.derive(device=device, precision=precision, dataset=spec.name, dataset_sha256=spec.sha256)
    network = network_for(config, spec)
    return Chosen(network.config, source, network.code, substituted, hardware)


def find_machine(device: str, precision: str) -> tuple[str, str, str]:
    """Return the device and precision with `auto` resolved, and the name of the processor. Imports torch.

    Raises:
        ConfigError: this machine does not have them.
    """
    from sweeper.training.device import hardware, resolve_device, resolve_precision

    device = resolve_device(device)
    return device, resolve_precision(precision, device), hardware(device)
