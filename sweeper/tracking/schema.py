"""The schema of journal records, which are untrusted."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from sweeper.core.errors import one_line

STRICT: Final = ConfigDict(strict=True, extra="ignore")
MOST_LINE: Final = 4_000_000  # bytes of one record: a traceback and a description are far smaller
MOST_EVENTS: Final = 200_000_000  # bytes of one run
MOST_STATE: Final = 100_000  # bytes of the note of an upload
MOST_ARTIFACT: Final = 16 * 10**9  # bytes of one file

Text = Annotated[str, StringConstraints(max_length=1_000_000)]  # escaped where it is printed
Name = Annotated[str, StringConstraints(max_length=250, pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_./ -]*$")]
Key = Annotated[str, StringConstraints(max_length=250, pattern=r"^[A-Za-z0-9_./:@-]+$")]
RunId = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[int, Field(ge=0, lt=10**14)]  # milliseconds since 1970
Step = Annotated[int, Field(ge=0, le=1_000_000)]


@with_config(STRICT)
class Dataset(TypedDict):
    """The data of a run, as MLflow shows it."""

    name: Text
    sha256: Annotated[str, StringConstraints(min_length=8, max_length=64, pattern=r"^[0-9a-f]+$")]
    source: Text
    profile: dict[Text, Any]


@with_config(STRICT)
class Start(TypedDict):
    """The start of an attempt."""

    event: Literal["start"]
    time: Time
    key: Key
    name: Text
    params: dict[Name, Text]
    description: Text
    tags: dict[Name, Text]
    dataset: Dataset | Annotated[dict[str, Any], Field(max_length=0)]
    run_id: RunId | None
    store: NotRequired[Text | None]


@with_config(STRICT)
class Epoch(TypedDict):
    """The end of an epoch."""

    event: Literal["epoch"]
    time: Time
    step: Step
    metrics: dict[Name, Finite]


@with_config(STRICT)
class End(TypedDict):
    """The end of an attempt."""

    event: Literal["end"]
    time: Time
    status: Literal["FINISHED", "FAILED", "KILLED"]
    metrics: dict[Name, Finite]
    tags: dict[Name, Text]


@with_config(STRICT)
class UploadState(TypedDict):
    """The progress of a run's upload, and its store."""

    store: Text
    run_id: RunId | None
    events: Annotated[int, Field(ge=0)]
    time: NotRequired[Time]
    files: NotRequired[bool]  # True if they are not uploaded yet
    deleted: NotRequired[bool]  # True if the run was deleted in MLflow
    registered: NotRequired[Annotated[str, StringConstraints(max_length=9, pattern=r"^[0-9]+$")]]


EVENT: Final[TypeAdapter[Start | Epoch | End]] = TypeAdapter(
    Annotated[Start | Epoch | End, Field(discriminator="event")]
)
STATE: Final[TypeAdapter[UploadState]] = TypeAdapter(UploadState)


def reason_of(error: ValidationError) -> str:
    """Return where the first error is, and what it is, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return one_line(ValueError(": ".join([*map(str, first["loc"][-1:]), first["msg"]])), 200)
