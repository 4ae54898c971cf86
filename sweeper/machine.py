"""What the trainings of a command run on. torch, which knows, is imported where it is called."""

from __future__ import annotations

from typing import NamedTuple


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
    from sweeper.train import hardware, resolve_device, resolve_precision

    device = resolve_device(device)
    return Machine(device, resolve_precision(precision, device), hardware(device))
