"""Strategies: ways to adapt one video backbone to temporal action localization.

Every strategy, built-in or third-party, is found through the entry-point group ``talbench.strategies``. Where
talbench itself is not installed, the built-in ones are those of the checkout's ``pyproject.toml``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import tomllib
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING, Any

from bench.config.arguments import pairs, parse_value
from bench.io import PROJECT_ROOT
from bench.io.errors import InputError
from bench.models import parts_of

if TYPE_CHECKING:
    from strategies.base import Strategy

GROUP = "talbench.strategies"
PAPERS = ("head-only", "lofi", "losa", "full-finetune")
NAMED_GROUPS: dict[str, tuple[str, ...]] = {
    "default": (*PAPERS, "mlp-control"),
    "papers": (*PAPERS, "lofi-added"),
    "field": (
        *("adatad", "adatad-beside", "lora", "last-k", "norm-tuning", "bitfit"),
        *("etad", "side-tuning", "vpt", "token-pruning"),
    ),
    "controls": ("mlp-control", "temporal-control", "wide-head", "last-layer-cells"),
}
"""Names that ``--strategies`` takes for several strategies; ``all`` are all that are installed."""
STRATEGIES_HELP = (
    "comma-separated names or groups: default (the papers' four and one control), papers, field, controls, "
    "all (every installed one)"
)
ABSENT = {
    "backbone": "it changes the backbone, and {model} has none",
    "attention": "it changes a transformer's attention blocks, and {model} has none",
}
"""The reason against a model, by the part that it lacks."""
MIXES = (
    "clips of a window mix in it, so that backward=streamed is refused; allowed are plain and checkpointed"
)


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
    kind = load(name)
    check_packages(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, text in (settings or {}).items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"strategy {name}: unknown field '{key}', known are {known}")
        values[key] = parse_value(text, hints[key], f"strategy {name}: field '{key}'")
    try:
        strategy = typing.cast("Strategy", kind(**values))
        strategy.stages()  # rates that no rule allows
    except ValueError as error:
        raise InputError(f"strategy {name}: {error}") from None
    return strategy


def load(name: str) -> Any:
    """Return the class of a strategy; raise InputError for one that is unknown or cannot be used."""
    points = installed()
    if name not in points:
        raise InputError(f"strategy: unknown '{name}', known are {', '.join(points)}")
    point = points[name]
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"strategy {name}: {point.value} cannot be loaded ({error})") from None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise InputError(f"strategy {name}: {point.value} is no dataclass")
    if (own := getattr(kind, "name", None)) != name:
        raise InputError(f"strategy {name}: the class {point.value} has the name {own!r}, not {name!r}")
    if unknown := [need for need in getattr(kind, "needs", ()) if need not in ABSENT]:
        raise InputError(f"strategy {name}: needs has {unknown[0]!r}, allowed are {', '.join(ABSENT)}")
    return kind


def check_packages(kind: Any) -> None:
    """Raise InputError if an optional package that a strategy's class needs is not installed."""
    for package, extra in getattr(kind, "packages", ()):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"strategy {kind.name} needs {package}: pip install talbench[{extra}]")


def settings_of(items: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the fields of each strategy in ``names`` from ``--set STRATEGY.FIELD=VALUE`` words."""
    settings: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in pairs(items, "--set").items():
        name, _, field = key.partition(".")
        if name not in settings:
            raise InputError(f"--set: '{name}' is not among the strategies of this run ({', '.join(names)})")
        settings[name][field] = value
    return settings


def reason_against(name: str, model: str, *, streamed: bool = False) -> str | None:
    """Return why a strategy cannot be applied to ``model``, with the streamed backward; None if it can."""
    kind = load(name)
    absent = [part for part in getattr(kind, "needs", ("backbone",)) if part not in parts_of(model)]
    if absent:
        return ABSENT[absent[0]].format(model=model)
    return MIXES if streamed and getattr(kind, "mixes_clips", False) else None


def supported_names(names: Sequence[str], model: str, option: str, *, streamed: bool = False) -> list[str]:
    """Return the strategies of ``names`` that can be applied to ``model``; InputError if there are none."""
    reasons = {name: reason_against(name, model, streamed=streamed) for name in names}
    if all(reasons.values()):
        shipped = {name for members in NAMED_GROUPS.values() for name in members}
        known = [name for name in installed() if name in shipped]
        allowed = [name for name in known if reason_against(name, model, streamed=streamed) is None]
        raise InputError(
            f"{option}: strategy {names[0]}: {reasons[names[0]]}; allowed are {', '.join(allowed)}"
        )
    return [name for name in names if reasons[name] is None]


def strategy_names(text: str, option: str = "--strategies") -> list[str]:
    """Return the names of strategies without duplicates; groups (``NAMED_GROUPS``, ``all``) are resolved."""
    known = installed()
    if not known:
        raise InputError(
            f"{option}: there are none, since talbench is not installed; run pip install -e . in its folder"
        )
    groups = {**NAMED_GROUPS, "all": tuple(known)}
    every = f"known are {', '.join(known)}; groups are {', '.join(groups)}"
    given = [name.strip() for name in text.split(",") if name.strip()]
    names = [member for name in given for member in groups.get(name, (name,))]
    for name in names:
        if name not in known:
            raise InputError(f"{option}: unknown '{name}', {every}")
    if not names:
        raise InputError(f"{option}: none given, {every}")
    return list(dict.fromkeys(names))
