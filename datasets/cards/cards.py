"""Cards: the fixed facts of each known data set, one TOML file per data set beside this module."""

import os
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from datasets.annotations.dataset import SegmentPolicy
from datasets.annotations.imports.formats import SUFFIXES

CARDS = Path(__file__).parent
TUNING = "tuning"
"""The subset of tuning videos where no card names one."""
GENERATED = ("miniature", "synthetic")
"""The embedded data sets, which are generated."""


@dataclass(frozen=True)
class Variant:
    """One version of a data set's ground truth in the literature; its name is part of every record.

    `videos` and `instances` are counts by subset, after removal of `excluded` videos and application of
    `policy`, as published or as counted on the real files; a subset without a count is not checked.
    """

    name: str
    why: str
    policy: SegmentPolicy
    excluded: tuple[str, ...] = ()
    videos: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A data set's classes (sorted; empty if taken from the file), tIoU grid, frame rate and licence.

    `subsets` gives the subset for each purpose, `train`, `test` and, if there is one, `tune`; videos of other
    subsets are left out. `excluded` lists videos that are known to be missing or wrongly annotated.
    """

    name: str
    classes: tuple[str, ...]
    subsets: dict[str, str]
    tiou: tuple[float, ...]
    licence: str
    frames_per_second: float | None = None
    """The nominal frame rate of the videos; None if it varies."""
    rates: tuple[float, ...] = ()
    """Frame rates of the original files; a file with another one was re-encoded."""
    excluded: tuple[str, ...] = ()
    title: str = ""
    printed_tiou: tuple[float, ...] = ()
    """The thresholds printed in papers, if the grid is too long for a table."""
    home: str = ""
    """Where to request videos and annotations."""
    annotation_files: tuple[str, ...] = ()
    """Possible names of the annotations; the first one that exists is read."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Subset names of other versions of the file, mapped to this project's names."""
    ignored: tuple[str, ...] = ()
    """Labels that are not classes."""
    implied: dict[str, str] = field(default_factory=dict)
    """Classes whose instances are all annotated a second time as instances of another class."""
    numbered: tuple[str, ...] = ()
    """Classes by number from 1, for files that refer to classes by number."""
    unannotated: dict[str, str] = field(default_factory=dict)
    """Videos without an instance, which files omit, with their subsets."""
    notes: tuple[str, ...] = ()
    without_recipe: dict[str, str] = field(default_factory=dict)
    """Protocol fields of runs without a recipe, as text."""
    default_variant: str = ""
    variants: tuple[Variant, ...] = ()

    def variant(self, name: str = "") -> Variant:
        """Return a variant by name, by default the card's; `InputError` lists the known ones."""
        wanted = name or self.default_variant
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        known = ", ".join(f"{self.name}:{variant.name}" for variant in self.variants)
        raise InputError(f"data set: got {f'{self.name}:{name}'[:60]!r}, known are {known or self.name}")


def known_datasets() -> tuple[str, ...]:
    """Return the sorted names of data sets with a card."""
    return tuple(sorted(path.stem for path in CARDS.glob("*.toml")))


def split_name(name: str) -> tuple[str, str]:
    """Split a data set's name such as `thumos14:211` into card and variant; the variant may be empty."""
    card, _, variant = name.partition(":")
    return card, variant


def is_annotation_path(name: str) -> bool:
    """Return whether a data set's name is the path of annotations: it has a / or a suffix of such files."""
    return "/" in name or os.sep in name or name.lower().endswith(SUFFIXES)


@lru_cache(maxsize=32)
def read_card(name: str) -> Card:
    """Return the card of a known data set, with or without `:variant`; `InputError` lists the known ones."""
    name = split_name(name)[0]
    if name not in known_datasets():
        raise InputError(
            f"data set: got {name[:60]!r}, known are {', '.join(known_datasets())}, or an annotation file, "
            "as my.json, my.csv or ./folder"
        )
    fields: dict[str, Any] = tomllib.loads((CARDS / f"{name}.toml").read_text(encoding="utf-8"))
    variants = tuple(_variant(key, value) for key, value in fields.pop("variants", {}).items())
    if source := fields.pop("classes_of", None):
        fields["classes"] = read_card(source).classes
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    card = Card(**(fields | lists), variants=variants)
    assert card.name == name
    assert card.classes == tuple(sorted(card.classes))
    assert not card.variants or card.default_variant in {variant.name for variant in card.variants}
    return card


def card_protocol(name: str) -> dict[str, str]:
    """Return the protocol fields that a data set's card sets, as text: its subsets and tIoU grid.

    Empty for generated data sets, whose cards equal the protocol's defaults, and for annotation files.
    """
    if (card := _card_of(name)) is None:
        return {}
    return {
        "training_subset": card.subsets["train"],
        "evaluation_subset": card.subsets["test"],
        "tiou": "+".join(f"{tiou:g}" for tiou in card.tiou),
    }


def tuning_subset(name: str) -> str:
    """Return the subset of a data set on which hyper-parameters are chosen; it may be without videos."""
    known = not is_annotation_path(name) and split_name(name)[0] in known_datasets()
    return read_card(name).subsets.get("tune", TUNING) if known else TUNING


def fields_without_recipe(name: str) -> dict[str, str]:
    """Return the protocol fields, as text, that a data set's card sets in runs without a recipe."""
    card = _card_of(name)
    return dict(card.without_recipe) if card else {}


def _card_of(name: str) -> Card | None:
    """Return the card of a known data set that is not generated; None for others and annotation files."""
    known = not is_annotation_path(name) and split_name(name)[0] in known_datasets()
    return read_card(name) if known and split_name(name)[0] not in GENERATED else None


def _variant(name: str, fields: dict[str, Any]) -> Variant:
    policy = SegmentPolicy(**fields.pop("policy", {}))
    return Variant(name=name, policy=policy, excluded=tuple(fields.pop("excluded", ())), **fields)
