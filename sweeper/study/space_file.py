"""Search spaces from YAML files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sweeper.core.config import ARGUMENT
from sweeper.core.errors import SpaceError
from sweeper.study.space import SEARCHABLE, Choice, Range, Space

MAX_FILE_BYTES: Final = 16 * 1024
MAX_DEPTH: Final = 10
MAX_VALUE: Final = 1_000
MESSAGES: Final = {  # by the type of pydantic's error
    "list_type": "takes a list of values, not a range or a single value",
    "too_short": "an empty choice; give at least one value",
    "bool_type": "log must be true or false",
    "string_type": "the choices must be strings; put words such as yes into quotes",
}
EXPONENT: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
NO_NUMBER: Final = ("int_type", "float_type", "finite_number")


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("a choice is listed twice")
    return values


def _kind(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "range" if isinstance(value, dict) else None


def _kind_of_argument(value: Any) -> str | None:
    if not isinstance(value, list):
        return _kind(value)
    return {str: "words", bool: "flags"}.get(type(value[0]) if value else str, "numbers")


Words = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
Numbers = Annotated[list[int | float], Field(min_length=1), AfterValidator(_distinct)]
Flags = Annotated[list[bool], Field(min_length=1), AfterValidator(_distinct)]
Real = Annotated[Annotated[Numbers, Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)]

Of = (
    Annotated[Words, Tag("words")] | Annotated[Flags, Tag("flags")] | Annotated[Numbers, Tag("numbers")]
    | Annotated[Range, Tag("range")]
)  # fmt: skip
ARGUMENTS: Final[TypeAdapter[dict[str, Any]]] = TypeAdapter(
    dict[str, Annotated[Of, Discriminator(_kind_of_argument)]], config=ConfigDict(strict=True)
)
FIELDS: Final = f"{', '.join(SEARCHABLE)} and {ARGUMENT}NAME"


class SpaceFile(BaseModel):
    """The dimensions of a space file: lists of values, or ranges for real-valued fields."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    placement: Words = []
    conv_dropout: Real = []
    head_dropout: Real = []
    batch_size: Numbers = []
    lr: Real = []
    weight_decay: Real = []
    schedule: Words = []
    augmentation: Words = []
    model: Words = []
    dropout_schedule: Words = []


def read_space(path: Path) -> Space:
    """Read a space from a YAML file.

    Raises:
        SpaceError: the file is missing, too large, not YAML, or not a space; one line.
    """
    return _space(parse_yaml(path, read_small(path)), str(path))


def parse_space(given: Mapping[str, Any]) -> Space:
    """Return the space of Python values: by field a list of values, `(low, high)` or `(low, high, "log")`.

    Raises:
        SpaceError: it is not a space; one line.
    """
    return _space({name: _plain(value) for name, value in given.items()}, "space")


def parse_varied(given: Sequence[tuple[str, str]]) -> Space:
    """Return the space of command-line words: a field, and `LOW..HIGH`, `LOW..HIGH:log` or `A,B,C`.

    Raises:
        SpaceError: they are not a space; one line.
    """
    if twice := [name for name, times in Counter(name for name, _ in given).items() if times > 1]:
        raise SpaceError(f"--vary {twice[0][:60]}: given twice. Leave one of them out.")
    found = {}
    for name, text in given:
        low, dots, high = text.removesuffix(":log").partition("..")
        yaml_text = f"{{low: {low}, high: {high}, log: {str(text.endswith(':log')).lower()}}}" if dots else f"[{text}]"
        found[name] = parse_yaml(Path(f"--vary {name[:60]}"), yaml_text.encode())
    return _space(found, "--vary")


def _plain(value: Any) -> Any:
    """Return a range as the file of a space writes it; anything else as it is."""
    match value:
        case (int() | float() as low, int() | float() as high):
            return value if isinstance(value, list) else {"low": low, "high": high}
        case (low, high, "log"):
            return {"low": low, "high": high, "log": True}
    return value


def _space(content: Any, where: str) -> Space:
    if not isinstance(content, dict) or not content:
        raise SpaceError(f"{where}: not a mapping of fields; the fields are {FIELDS}")
    arguments = {name: values for name, values in content.items() if _is_argument(name)}
    try:
        given = SpaceFile.model_validate({name: values for name, values in content.items() if name not in arguments})
        arguments = ARGUMENTS.validate_python(arguments)
    except ValidationError as error:
        raise SpaceError(f"{where}: {_explain(error.errors()[0])}") from None
    found = {name: arguments[name] if name in arguments else getattr(given, name) for name in content}
    return Space({name: Choice(tuple(value)) if isinstance(value, list) else value for name, value in found.items()})


def _is_argument(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(ARGUMENT) and name.removeprefix(ARGUMENT).isidentifier()


def read_small(path: Path) -> bytes:
    """Read a file of at most `MAX_FILE_BYTES`.

    Raises:
        SpaceError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise SpaceError(f"{path}: larger than {MAX_FILE_BYTES} bytes. A search space takes only a few lines.")
    return text


def parse_yaml(path: Path, text: bytes) -> Any:
    """Return the content of the file `path`, which is `text`.

    Raises:
        SpaceError: it is not YAML, or uses aliases, tags or deep nesting.
    """
    try:
        return _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpaceError(f"{path}: not YAML: {' '.join(str(error).split())[:150]}") from None


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key may be given once only, and 1e-4 is a number as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping as SafeLoader does, after a look at the keys."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in keys.items() if times > 1]:
            raise ValueError(f"{twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def _parse(text: bytes) -> Any:
    """YAML by the safe loader, without aliases (a few of them can stand for gigabytes) and not deep (that is slow).

    Tags, as in `!!int 5`, are not allowed either: the loader takes what they promise for granted, and nobody needs one.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
        if len(getattr(event, "value", "")) > MAX_VALUE:  # Python does not print an integer of thousands of digits
            raise ValueError(f"a value is longer than {MAX_VALUE} characters")
        if getattr(event, "tag", None) is not None:
            raise ValueError("tags (!name) are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _explain(detail: ErrorDetails) -> str:
    """Return which field of a file is wrong, what is wrong, and what belongs there."""
    field, *inside = detail["loc"]
    if not inside and detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"unknown field {str(field)[:60]!r}; the fields are {FIELDS}"
    if detail["type"] == "value_error":
        return f"{field}: {detail['ctx']['error']}"
    if detail["type"] == "bool_type" and "log" not in inside:
        return f"{field}: true and false cannot be mixed with other values"
    if detail["type"] in NO_NUMBER:
        place = next((f"{part}=" for part in inside if part in ("low", "high")), "")
        string = " is a string in YAML" if isinstance(detail["input"], str) else ""
        return f"{field}: {place}{detail['input']!r:.40}{string}; write a finite number such as 64, 0.001 or 1e-3"
    return f"{field}: {MESSAGES.get(detail['type'], 'neither a list of values nor {low: …, high: …, log: …}')}"
