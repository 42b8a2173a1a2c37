"""Cards: what is fixed about each known data set, one TOML file a data set beside this module."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import InputError

CARDS = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """A data set's classes (sorted), tIoU grid, frame rate and licence.

    `subsets` gives the subset for each purpose, `train`, `tune` and `test`; `excluded` lists videos that are
    known to be missing or wrongly annotated, and only those may be left out.
    """

    name: str
    classes: tuple[str, ...]
    subsets: dict[str, str]
    tiou: tuple[float, ...]
    frames_per_second: float
    licence: str
    excluded: tuple[str, ...] = ()


def known_datasets() -> tuple[str, ...]:
    """The names that have a card, sorted."""
    return tuple(sorted(path.stem for path in CARDS.glob("*.toml")))


def read_card(name: str) -> Card:
    """The card of a known data set; `InputError` lists the known ones."""
    if name not in known_datasets():
        raise InputError(f"data set: got {name!r}, known are {', '.join(known_datasets())}, or a .json file")
    fields: dict[str, Any] = tomllib.loads((CARDS / f"{name}.toml").read_text(encoding="utf-8"))
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    card = Card(**(fields | lists))
    assert card.name == name
    assert card.classes == tuple(sorted(card.classes))
    return card
