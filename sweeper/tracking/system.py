"""The load of this machine, under the names that MLflow's System metrics tab shows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

SHORTEST: Final = 0.1  # seconds between two readings of the processor, by psutil's documentation


class SystemMetrics:
    """Reads the load of the machine: CPU use since the last reading, and current memory use."""

    def __init__(self) -> None:
        self._read(SHORTEST)

    def __call__(self) -> Mapping[str, float]:
        """Return processor time in percent of all cores, and memory in use in MB and in percent.

        Two epochs that end within `SHORTEST` get the same values.
        """
        if time.monotonic() - self._time >= SHORTEST:
            self._read(None)
        return self._values

    def _read(self, interval: float | None) -> None:
        import psutil  # which few commands need

        memory = psutil.virtual_memory()
        self._values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(interval),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        self._time = time.monotonic()
