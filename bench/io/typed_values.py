"""Typed values from untrusted JSON: msgspec checks them against annotations and runs no code of the file.

Error messages name the field with its path, its value, and what is allowed. The last is the type's
``msgspec.Meta(description=...)``, or is derived from the type itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import sys
import types
import typing
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bench.io.errors import InputError
from bench.io.reading import has_unique_keys
from bench.io.text import ACTING, MAX_NAME_LENGTH, SHA256, format_value, is_name, printable

FieldPath = tuple[str | int, ...]
"""Keys and indices that lead to a value."""
PLACE = re.compile(r"(.*) - at `\$([^`]*)`", re.DOTALL)
STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
ABOUT_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
MAX_NUMBER = 2**63
"""Numbers of a record (bytes, steps, seconds) are smaller than this."""
MAX_TEXT_LENGTH = 10_000
MAX_STEP_LENGTH = 80
"""Characters of a field's name in messages."""
MAX_ENTRIES = 10_000
USUAL_LEVELS = 8
"""Levels of nested lists and objects in records; deeper ones are read too, but more slowly."""
A_NAME = f"text of 1 to {MAX_NAME_LENGTH} characters, none of them a control"
A_TEXT = f"text of at most {MAX_TEXT_LENGTH} characters"
PATTERN = rf"\A[^{ACTING}]{{1,{MAX_NAME_LENGTH}}}\Z"
A_TABLE = f"an object of at most {MAX_ENTRIES} entries"
A_LIST = f"a list of {{}} to {MAX_ENTRIES} entries"
TABLE = Meta(max_length=MAX_ENTRIES, description=A_TABLE)
LIST = Meta(max_length=MAX_ENTRIES, description=A_LIST.format(0))

Name = Annotated[str, Meta(pattern=PATTERN, description=A_NAME)]
"""A text that is used in a table."""
Label = Annotated[str, Meta(pattern=rf"\A\Z|{PATTERN}", description=A_NAME)]
"""A name that may be empty, for example where a machine does not report its own."""
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH, description=A_TEXT)]
Sha256 = Annotated[str, Meta(pattern=rf"\A{SHA256.pattern}\Z", description="a sha256")]
"""It is used in a file name."""
Integer = Annotated[int, Meta(gt=-MAX_NUMBER, le=MAX_NUMBER - 1)]
Whole = Annotated[int, Meta(ge=0, le=MAX_NUMBER - 1, description="a whole number from 0 on")]
Positive = Annotated[int, Meta(ge=1, le=MAX_NUMBER - 1, description="a whole number from 1 on")]
Real = Integer | Annotated[float, Meta(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
Number = Annotated[
    Whole | Annotated[float, Meta(ge=0, lt=MAX_NUMBER)], Meta(description="a number from 0 on")
]
"""JSON numbers: a boolean is not one."""
Fraction = Annotated[
    Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)],
    Meta(description="a number from 0 to 1"),
]
MAX_FLOAT = sys.float_info.max
Seconds = Annotated[float, Meta(ge=-MAX_FLOAT, le=MAX_FLOAT, description="a finite number")]
Counts = Annotated[dict[str, Whole], TABLE]

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    list: "a list",
    tuple: "a list",
    type(None): "null",
}


def structure(kind: Any, value: Any, way: FieldPath = ()) -> Any:
    """Convert a JSON ``value`` to the annotated type ``kind``, as ``msgspec.convert`` does.

    Raises InputError that names the first wrong field; ``way`` is the path to the value.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(_explained(str(error), kind, value, way)) from None
    except UnicodeEncodeError as error:  # in a field's name, or in a text that is restricted to a few values
        raise InputError(
            f"{_field(way)} holds {format_value(error.object)}, allowed is text in Unicode"
        ) from None


def structure_dataclass(kind: Any, value: Any, way: FieldPath = ()) -> Any:
    """Convert a JSON ``value`` to a dataclass or a tuple of them; raise InputError that names the field.

    A field may be missing if it has a default. Unknown fields and numbers that are not finite are refused.
    An integer stays an integer where the annotation is float: digests distinguish 1 from 1.0.
    """
    try:
        made = structure(kind, value, way)
    except TypeError as error:  # an annotation that msgspec does not support, in a user's strategy
        raise InputError(f"{_field(way)}: {printable(str(error), 200)}") from None
    return _as_given(made, value, way)


@functools.cache
def _usual() -> msgspec.json.Decoder[Any]:
    """Return a decoder of text whose values are plain in the sense of ``check_plain`` and not deep."""
    key = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    scalar = Text | Integer | float | bool | None
    kind: Any = scalar
    for _ in range(USUAL_LEVELS):
        kind = scalar | Annotated[list[kind], LIST] | Annotated[dict[key, kind], TABLE]
    return msgspec.json.Decoder(kind)


def decode_plain(content: bytes) -> Any:
    """Return the values of JSON text if a fast check shows that they are plain, else UNSET.

    Printable ASCII without an escape contains no control characters.
    """
    if not content.isascii() or b"\\" in content or b"\x7f" in content:
        return UNSET
    try:
        values = _usual().decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return UNSET
    return values if has_unique_keys(values, content) else UNSET


def check_plain(value: Any, way: FieldPath) -> None:
    """Check settings of any shape: names, texts, numbers, lists and objects of these.

    Raises InputError that names the first one that a table or a terminal cannot display.
    """
    kind = type(value)
    if kind is dict and len(value) > MAX_ENTRIES:
        fail(value, way, A_TABLE)
    elif kind is dict:
        for key, entry in value.items():
            if not is_name(key):
                fail(key, (*way, key), A_NAME)
            check_plain(entry, (*way, key))
    elif kind is list and len(value) > MAX_ENTRIES:
        fail(value, way, A_LIST.format(0))
    elif kind is list:
        for index, entry in enumerate(value):
            check_plain(entry, (*way, index))
    elif kind is str and len(value) > MAX_TEXT_LENGTH:
        fail(value, way, A_TEXT)
    elif kind is int and not -MAX_NUMBER < value < MAX_NUMBER:
        fail(value, way, "a number of less than 20 digits")
    elif kind is float and not math.isfinite(value):
        fail(value, way, "a finite number")


def fail(value: Any, way: FieldPath, allowed: str) -> NoReturn:
    """Raise InputError that shows a value, its path and what is allowed."""
    raise InputError(f"{_field(way)} is {format_value(value)}, allowed is {allowed}")


def format_path(way: FieldPath) -> str:
    """Return the path of a value as text for messages."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{printable(step, MAX_STEP_LENGTH)}" for step in way)
    return "".join(steps).removeprefix(".")


def _field(way: FieldPath) -> str:
    return f"field '{format_path(way)}'" if way else "the whole"


def _as_given(made: Any, given: Any, way: FieldPath) -> Any:
    if isinstance(made, tuple):
        pairs = enumerate(zip(made, given, strict=True))
        return tuple(_as_given(each, its, (*way, index)) for index, (each, its) in pairs)
    if isinstance(made, float):
        return given if math.isfinite(made) else fail(given, way, WORDS[float])
    if not dataclasses.is_dataclass(made) or isinstance(made, type):
        return made
    known = [field.name for field in dataclasses.fields(made)]
    for name in given:
        if name not in known:
            raise InputError(f"{_field((*way, name))} is unknown, known are {', '.join(known) or 'none'}")
    values = {name: _as_given(getattr(made, name), each, (*way, name)) for name, each in given.items()}
    return dataclasses.replace(made, **values)


def _explained(message: str, kind: Any, value: Any, way: FieldPath) -> str:
    """Return msgspec's message on ``value`` in the form of this project's messages, one line."""
    what = message
    if found := PLACE.fullmatch(message):
        with contextlib.suppress(LookupError, TypeError):  # a field's name that looks like a path
            kind, value, way = _followed(found[2], kind, value, way)
            what = found[1]
    if about := ABOUT_FIELD.fullmatch(what):
        state = "missing" if about[1].startswith("missing") else "unknown"
        return f"{_field((*way, about[2]))} is {state}"
    if not what.startswith(("Expected ", "Invalid ", "Number ", "Integer ")):  # a type's own check
        return f"{_field(way)}: {printable(what, 200)}"
    return f"{_field(way)} is {format_value(value)}, allowed is {_allowed(kind)}"


def _followed(place: str, kind: Any, value: Any, way: FieldPath) -> tuple[Any, Any, FieldPath]:
    """Return type, value and path of the item at ``place`` in a value, in msgspec's notation of paths."""
    for name, index in STEP.findall(place):
        kind = _bare(kind)
        # msgspec does not report the key of a table.
        step = int(index) if index.isdecimal() else name or _first_wrong(typing.get_args(kind)[1], value)
        kind, value, way = _member(kind, step), value[step], (*way, step)
    return kind, value, way


def _first_wrong(kind: Any, table: dict[str, Any]) -> str:
    for key, entry in table.items():
        try:
            msgspec.convert(entry, kind)
        except msgspec.ValidationError:
            return key
    raise LookupError("all entries are right")


def _bare(kind: Any) -> Any:
    """Return a type without its constraints; of a union, the container type."""
    if typing.get_origin(kind) is Annotated:
        return _bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        bare = [_bare(each) for each in typing.get_args(kind)]
        return next((each for each in bare if each not in (*WORDS, UnsetType)), kind)
    return kind


def _member(kind: Any, step: str | int) -> Any:
    """Return the type of the item at ``step`` in a value of the bare type ``kind``."""
    arguments = typing.get_args(kind)
    if isinstance(step, int):
        several = typing.get_origin(kind) is tuple and Ellipsis not in arguments
        return arguments[step if several else 0]
    if typing.get_origin(kind) is dict:
        return arguments[1]
    if issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}[step]
    return typing.get_type_hints(kind, include_extras=True)[step]


def _allowed(kind: Any) -> str:
    """Return a description of the values that a type allows."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        described = [meta.description for meta in arguments[1:] if getattr(meta, "description", None)]
        return described[-1] if described else _allowed(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_allowed(a) for a in arguments if a is not UnsetType))
    if origin is Literal:
        return f"{'one of ' if len(arguments) > 1 else ''}{', '.join(map(str, arguments))}"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} entries"
    return WORDS.get(origin or kind, "an object")
