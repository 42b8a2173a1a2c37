"""Strategies: ways to adapt one video backbone to temporal action localization.

Every strategy, ours as a stranger's, is found through the entry-point group ``talbench.strategies``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from bench.errors import InputError

if TYPE_CHECKING:
    from strategies.base import Strategy

GROUP = "talbench.strategies"


def installed() -> dict[str, EntryPoint]:
    """Return the installed strategies' entry points by name, sorted; nothing is imported yet."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def build_strategy(name: str, settings: Mapping[str, str] | None = None) -> Strategy:
    """Return the strategy ``name`` with the given fields set from text.

    Raises InputError for an unknown strategy or field (the known ones are listed) or a bad value.
    """
    points = installed()
    if name not in points:
        raise InputError(f"strategy: unknown '{name}', known are {', '.join(points)}")
    kind = points[name].load()
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, text in (settings or {}).items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"strategy {name}: unknown field '{key}', known are {known}")
        values[key] = parse_value(text, hints[key], f"strategy {name}: field '{key}'")
    try:
        return typing.cast("Strategy", kind(**values))
    except ValueError as error:
        raise InputError(f"strategy {name}: {error}") from None


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
