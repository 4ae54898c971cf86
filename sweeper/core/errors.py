"""The errors that sweeper raises on purpose, each with the exit code of the command line.

SweeperError                 1   base class of all errors; the message is one line
├── UsageError               2   a value, option, or file the user gave is wrong
│   ├── ConfigError          2   ... in a run's configuration
│   ├── SpaceError           2   ... in a search space
│   └── StudyConflict        2   the study exists with other settings, or another process uses it
├── RecordError              1   a recorded file is damaged, or not one that sweeper wrote
├── DataError                1   a data set is missing, damaged, or not the expected one
├── TrainingError            1   a run did not finish training
│   ├── Diverged             1   its loss is not finite, or exploded
│   └── Transient            1   the same run may succeed on a retry
│       ├── WorkerLost       1   its worker process died
│       └── OutOfMemory      1   the device or the machine ran out of memory
├── StudyIncomplete          3   a sweep ended before it reached its number of trials
│   ├── OutOfTime            3   ... because its time ran out
│   └── Stopped              3   ... because of `sweeper stop`
└── ServiceUnreachable       4   a tracking server or database does not answer
"""

from __future__ import annotations

import signal


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """Return an error's message as one line of at most `limit` characters; its type if the message is empty."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class SweeperError(Exception):
    """Base class. Its message is one line that names the bad value, what is allowed, and what to do."""

    exit_code = 1


class UsageError(SweeperError):
    """A value, option, or file that the user gave is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A run's configuration is wrong."""


class SpaceError(UsageError):
    """A search space is wrong."""


class StudyConflict(UsageError):
    """The study exists with other settings, or another process uses it."""


class RecordError(SweeperError):
    """A recorded file is damaged, or not one that sweeper wrote."""


class DataError(SweeperError):
    """A data set is missing, damaged, or not the expected one."""


class TrainingError(SweeperError):
    """A run did not finish training; `details` is the traceback, if there is one."""

    details = ""


class Diverged(TrainingError):
    """The loss of a run is not finite, or exploded."""


class Transient(TrainingError):
    """Not the fault of the configuration: the same run may succeed on a retry."""


class WorkerLost(Transient):
    """The worker process of a run died."""


class OutOfMemory(Transient):
    """The device or the machine ran out of memory."""


class StudyIncomplete(SweeperError):
    """A sweep ended before it reached its number of trials."""

    exit_code = 3


class OutOfTime(StudyIncomplete):
    """A sweep ended because its time ran out."""


class Stopped(StudyIncomplete):
    """A sweep ended because of `sweeper stop`."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Like KeyboardInterrupt, it is not caught by `except Exception`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class ServiceUnreachable(SweeperError):
    """A tracking server or a database does not answer."""

    exit_code = 4
