"""Find the network of a configuration, and check it before anything is created.

Built-in networks are identified by name. A user's factory is imported and called in a helper process that has
torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sweeper.core.config import MODELS, Placement, RunConfig, check_rates, placements_of
from sweeper.core.environment import Environment
from sweeper.core.images import ImageSpec
from sweeper.core.own_code import absolute, source_of
from sweeper.data.images import ImageSource
from sweeper.data.sources import find
from sweeper.engine.aside import call


class Found(NamedTuple):
    """A configuration with its network resolved.

    Attributes:
        config: with the absolute name of the factory's file, and its SHA-256.
        placements: those that the network supports.
        code: the factory's file, under the name that a run logs it as; nothing for our own networks.
        source: the data set, if `find_network` has read it.
    """

    config: RunConfig
    placements: tuple[Placement, ...]
    code: Mapping[str, bytes]
    source: ImageSource | None = None


def find_network(env: Environment, config: RunConfig, dataset: str, given: Mapping[str, Any]) -> Found:
    """Find the network of `config` for a data set, and read that if a factory is to be called for its images.

    Args:
        env: of the command.
        config: of the run, with every other option.
        dataset: as `--dataset` takes it.
        given: the fields that the user gave; a placement among them is not replaced.

    Raises:
        DataError: the images are missing.
        UsageError, SweeperError: as `network_for`; or a rate was given that the network does not use.
    """
    if config.model in MODELS:
        return Found(config, placements_of(config.model), {})
    source = find(dataset, env.data_dir, config.image_size, env.say)
    found = network_for(config, source.spec, placed="placement" in given)
    check_rates(found.config, given)
    return found._replace(source=source)


def network_for(config: RunConfig, images: ImageSpec, *, placed: bool = True) -> Found:
    """Find the network of `config` for `images`. A factory without an argument `layers` has the placement `own`.

    A placement that the network does not support is replaced. With `placed` it is kept: `check_networks` refuses it.

    Raises:
        UsageError: there is no such factory, or its file has changed.
        SweeperError: it raises an error.
    """
    if config.model in MODELS:
        return Found(config, placements_of(config.model), {})
    return call(_find, config, images, placed)


def _find(config: RunConfig, images: ImageSpec, placed: bool) -> Found:
    """In the helper process."""
    from sweeper.training.networks.build import factory_of, takes_layers
    from sweeper.training.networks.check import fitting

    config = with_source(config)
    placements = fitting(config, images) if takes_layers(factory_of(config)) else (Placement.OWN,)
    if not placed and config.placement not in placements:
        config = config.derive(placement=placements[0])
    return Found(config, placements, code_of(config))


def code_of(config: RunConfig) -> dict[str, bytes]:
    """Return the file of a network's factory, under the name that a run logs it as; nothing for our own networks.

    Raises:
        UsageError: there is no such file.
    """
    if config.model in MODELS:
        return {}
    source = source_of(config.model)
    return {f"code/{source.name}": source.read_bytes()}


def with_source(config: RunConfig) -> RunConfig:
    """Return `config` with the absolute name and the SHA-256 of its factory's file, unless it has that already.

    Raises:
        UsageError: there is no such file.
    """
    if config.model in MODELS or config.model_sha256:
        return config
    digest = hashlib.sha256(source_of(config.model).read_bytes()).hexdigest()
    return config.derive(model=absolute(config.model), model_sha256=digest)


def check_networks(configs: Sequence[RunConfig], images: ImageSpec) -> None:
    """Build the user's networks among these configurations, and run each on two images.

    Raises:
        UsageError: one cannot be trained; one line that says why.
        SweeperError: its code raises an error.
    """
    if own := [config for config in configs if config.model not in MODELS]:
        call(_check, own, images)


def _check(configs: Sequence[RunConfig], images: ImageSpec) -> None:
    from sweeper.training.networks.check import check_network

    for config in configs:
        check_network(config, images)
