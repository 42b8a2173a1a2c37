"""Dataclasses out of untrusted JSON values: every field checked against its annotation, no code run."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from bench.io.errors import InputError
from bench.io.text import printable, short

__all__ = ["short", "value_of"]


def value_of(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON ``value`` as one of the annotated type ``kind``; raise InputError that names ``where``.

    Known are bool, int, finite float, str, Literal, tuples, optional ones of these, and dataclasses of them:
    these may lack fields that have a default and may have no others. JSON's lists become tuples.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_of(kind, value, where)
    if origin is typing.Literal:
        if not (isinstance(value, str) and value in arguments):
            raise InputError(f"{where}: {short(value)}, allowed are {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple_of(arguments, value, where)
    if origin in (typing.Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        inner = next(each for each in arguments if each is not type(None))
        return None if value is None else value_of(inner, value, where)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if _finite(value):
            return value
    elif kind in (bool, int, str) and type(value) is kind:
        return value
    name = "a finite number" if kind is float else f"a value of type {getattr(kind, '__name__', kind)}"
    raise InputError(f"{where}: {short(value)}, allowed is {name}")


def _dataclass_of(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {short(value)}, allowed is an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for name in value:
        if name not in fields:
            raise InputError(f"{where}: unknown field {short(name)}, known are {', '.join(fields) or 'none'}")
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if name not in value and not optional:
            raise InputError(f"{where}.{name}: missing")
    given = {name: value_of(hints[name], each, f"{where}.{name}") for name, each in value.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise InputError(f"{where}: {printable(str(error), 200)}") from None


def _tuple_of(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: {short(value)}, allowed is a list")
    open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
    if not open_ended and len(value) != len(arguments):
        raise InputError(f"{where}: {len(value)} values, allowed are {len(arguments)}")
    kinds = [arguments[0]] * len(value) if open_ended else arguments
    return tuple(
        value_of(kind, each, f"{where}[{number}]")
        for number, (kind, each) in enumerate(zip(kinds, value, strict=True))
    )


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def parse_value(text: str, kind: Any, where: str) -> Any:
    """Return ``text`` as a value of the annotated type ``kind``; raise InputError naming ``where``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if text not in arguments:
            raise InputError(f"{where}: got '{text}', allowed are {', '.join(map(str, arguments))}")
        return text
    if origin is tuple:
        items = [item for item in text.split("+") if item]
        return tuple(parse_value(item, arguments[0], where) for item in items)
    if type(None) in arguments:
        if text.lower() == "none":
            return None
        return parse_value(text, next(a for a in arguments if a is not type(None)), where)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{where}: got '{text}', allowed are true and false")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise InputError(f"{where}: cannot be set from text")
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{where}: got '{text}', allowed is a value of type {kind.__name__}") from None
