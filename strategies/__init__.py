"""Strategies: ways to adapt one video backbone to temporal action localization.

Every strategy, built-in or third-party, is found through the entry-point group ``talbench.strategies``. Where
talbench itself is not installed, the built-in ones are those of the checkout's ``pyproject.toml``.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING, Any

from bench.config.arguments import pairs, parse_value
from bench.io import PROJECT_ROOT
from bench.io.errors import InputError

if TYPE_CHECKING:
    from strategies.base import Strategy

GROUP = "talbench.strategies"


def installed() -> dict[str, EntryPoint]:
    """Return the installed strategies' entry points by name, sorted; imports no strategy."""
    found = {point.name: point for point in (*_of_checkout(), *entry_points(group=GROUP))}
    return dict(sorted(found.items()))


@functools.cache
def _of_checkout() -> tuple[EntryPoint, ...]:
    """Return the entry points of the checkout's ``pyproject.toml``; none where talbench is installed."""
    try:
        distribution("talbench")
        return ()
    except PackageNotFoundError:
        pass
    try:
        text = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:  # no checkout: a folder of packages
        return ()
    points = tomllib.loads(text)["project"]["entry-points"][GROUP]
    return tuple(EntryPoint(name, value, GROUP) for name, value in points.items())


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


def settings_of(items: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the fields of each strategy in ``names`` from ``--set STRATEGY.FIELD=VALUE`` words."""
    settings: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in pairs(items, "--set").items():
        name, _, field = key.partition(".")
        if name not in settings:
            raise InputError(f"--set: '{name}' is not among the strategies of this run ({', '.join(names)})")
        settings[name][field] = value
    return settings


def names_without_backbone(names: Sequence[str], option: str, *, every: bool) -> list[str]:
    """Return the names of strategies that can train on features in files, which have no backbone.

    With ``every``, the others are left out; otherwise InputError names the first of them.
    """
    points = installed()

    def usable(name: str) -> bool:
        return not getattr(points[name].load(), "needs_backbone", True)

    found = [name for name in names if usable(name)]
    if not every and (refused := [name for name in names if name not in found]):
        raise InputError(
            f"{option}: strategy {refused[0]} needs a backbone, --model features has none; "
            f"allowed are {', '.join(filter(usable, points))}"
        )
    return found


def strategy_names(text: str, option: str = "--strategies") -> list[str]:
    """Return the names of strategies without duplicates; ``all`` means all installed ones."""
    known = installed()
    if not known:
        raise InputError(
            f"{option}: there are none, since talbench is not installed; run pip install -e . in its folder"
        )
    if text == "all":
        return list(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"{option}: unknown '{name}', known are {', '.join(known)}")
    if not names:
        raise InputError(f"{option}: none given, known are {', '.join(known)}")
    return list(dict.fromkeys(names))
