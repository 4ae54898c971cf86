"""A home whose commands run in this process, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sweeper.core.environment import OFFLINE, Environment


@dataclass
class Spoken:
    """A folder for commands, and everything that they say there."""

    home: Path
    tracking_uri: str = OFFLINE
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        storage = f"sqlite:///{self.home / 'sweeper.db'}"
        return Environment(self.home, self.tracking_uri, storage, None, False, self.warned.append, self.said.append)
