"""Recipes: settings of training from public configurations, one TOML file per data set and name.

A file `thumos14/adatad.toml` is the recipe `thumos14:adatad`. Every value is a pair of the value and where it
comes from: `"main: solver.train.batch_size"`, with `main` a path in the table `files`, or `"chosen: reason"`
where the source has no such value. A recipe sets every field of the protocol that changes a result, so it
does not depend on the model's default protocol. With `base`, a file inherits the values of another recipe.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.io.errors import InputError

RECIPES = Path(__file__).parent
CHOSEN = "chosen"
NO_RECIPE = "none"
OWN_PROTOCOL = "vit-t"
"""The model that keeps its own protocol unless a recipe is named."""


@dataclass(frozen=True)
class Value:
    """A value and its source: repository, file and field, or `chosen: reason`."""

    value: Any
    source: str

    @property
    def text(self) -> str:
        """The value as `--protocol` and `--set` take it."""
        if isinstance(self.value, list):
            return "+".join(_text(each) for each in self.value)
        return _text(self.value)


@dataclass(frozen=True)
class Published:
    """A published result of the source: of which model, the numbers, and where."""

    model: str
    result: str
    source: str


@dataclass(frozen=True)
class Recipe:
    """A recipe. Epochs are passes over the training videos, one window of each."""

    name: str
    """Data set and name, as in `thumos14:adatad`."""
    title: str
    models: tuple[str, ...]
    """Patterns of the models that it is for; for these it can be a data set's default."""
    epochs: Value
    """Epochs of training."""
    schedule_epochs: Value
    """Epochs after which the learning rate would be zero."""
    warmup_epochs: Value
    source_epochs: float | None
    """The source's epochs of training; None if it does not state them."""
    protocol: Mapping[str, Value]
    """Fields of the protocol by name, `head.levels` for nested ones, without those of the schedule."""
    with_classifier: Mapping[str, Value] = field(default_factory=dict)
    """Fields that replace others in a run with an external classifier."""
    strategies: Mapping[str, Value] = field(default_factory=dict)
    """Fields of strategies, as `full-finetune.backbone_lr`; a table gives values by pattern of the model."""
    differs: tuple[str, ...] = ()
    """What differs from the source."""
    published: tuple[Published, ...] = ()

    def is_for(self, model: str) -> bool:
        """Return whether the recipe is for a model."""
        return any(fnmatch(model, pattern) for pattern in self.models)

    def schedule(self) -> dict[str, str]:
        """Return the fields of the schedule as text. Warmup is a fraction of the trained epochs."""
        epochs = self.epochs.value
        return {
            "steps": "0",
            "epochs": _text(epochs),
            "schedule_length": _text(self.schedule_epochs.value / epochs),
            "warmup": _text(self.warmup_epochs.value / epochs),
        }

    def changes(self, device: str = "cuda", *, classifier: bool = False) -> dict[str, str]:
        """Return the protocol fields as text; `classifier`: for a run with an external classifier.

        Without the precision on a CPU, where the model's default holds.
        """
        values = {**self.protocol, **(self.with_classifier if classifier else {})}
        texts = {name: value.text for name, value in values.items()}
        if device == "cpu":
            texts.pop("precision", None)
        return {**self.schedule(), **texts}

    def settings(self, strategy: str, model: str) -> dict[str, str]:
        """Return the fields of a strategy for a model as text."""
        found = {}
        for name, value in self.strategies.items():
            owner, _, setting = name.partition(".")
            if owner != strategy:
                continue
            if not isinstance(value.value, dict):
                found[setting] = value.text
            elif matching := [each for pattern, each in value.value.items() if fnmatch(model, pattern)]:
                found[setting] = _text(matching[0])
        return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def known_recipes() -> tuple[str, ...]:
    """Return the names of all recipes, sorted."""
    return tuple(sorted(f"{path.parent.name}:{path.stem}" for path in RECIPES.glob("*/*.toml")))


def chosen_recipe(name: str | None, dataset: str, model: str) -> Recipe | None:
    """Return the recipe of a run: the named one, without a name the default one, for `none` no recipe."""
    if name == NO_RECIPE:
        return None
    return default_recipe(dataset, model) if name is None else named_recipe(name, dataset)


def named_recipe(name: str, dataset: str = "") -> Recipe:
    """Return the recipe `thumos14:adatad`, or `adatad` of the card of `dataset`.

    Raises `InputError` that lists the known ones.
    """
    card = dataset.partition(":")[0]
    full = name if ":" in name else f"{card}:{name}"
    if full not in known_recipes():
        raise InputError(f"--recipe: got '{name[:60]}', known are {', '.join(known_recipes())}")
    return read_recipe(full)


def default_recipe(dataset: str, model: str) -> Recipe | None:
    """Return the first recipe, by name, of a data set that is for `model`; None if there is none."""
    card = dataset.partition(":")[0]
    own = (read_recipe(name) for name in known_recipes() if name.partition(":")[0] == card)
    return None if model == OWN_PROTOCOL else next((each for each in own if each.is_for(model)), None)


@lru_cache(maxsize=64)
def read_recipe(name: str) -> Recipe:
    """Return the recipe of a full name, one of `known_recipes`."""
    card, _, stem = name.partition(":")
    fields = tomllib.loads((RECIPES / card / f"{stem}.toml").read_text(encoding="utf-8"))
    files = {key: f"{fields['source']} {path}" for key, path in fields.get("files", {}).items()}
    base = read_recipe(fields["base"]) if "base" in fields else None
    tables: dict[str, dict[str, Value]] = {
        key: {
            **(getattr(base, key) if base else {}),
            **{each: _cited(pair, files) for each, pair in _flat(fields.get(key, {})).items()},
        }
        for key in ("protocol", "with_classifier", "strategies")
    }
    epochs: dict[str, Value] = {
        key: _cited(fields[key], files) if key in fields else getattr(base, key)
        for key in ("epochs", "schedule_epochs", "warmup_epochs")
    }
    source_epochs = fields.get("source_epochs", base.source_epochs if base else None)
    return Recipe(
        name=name,
        title=fields["title"],
        models=tuple(fields["models"]) if "models" in fields else base.models if base else (),
        epochs=epochs["epochs"],
        schedule_epochs=epochs["schedule_epochs"],
        warmup_epochs=epochs["warmup_epochs"],
        source_epochs=None if source_epochs == "not stated" else source_epochs,
        protocol=tables["protocol"],
        with_classifier=tables["with_classifier"],
        strategies=tables["strategies"],
        differs=(*(base.differs if base else ()), *fields.get("differs", ())),
        published=tuple(
            Published(model, result, _source(source, files))
            for model, result, source in fields.get("published", ())
        ),
    )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the entries of nested tables by dotted name."""
    found: dict[str, Any] = {}
    for key, entry in table.items():
        found |= _flat(entry, f"{prefix}{key}.") if isinstance(entry, dict) else {prefix + key: entry}
    return found


def _cited(pair: Any, files: Mapping[str, str]) -> Value:
    value, source = pair
    return Value(value, _source(source, files))


def _source(text: str, files: Mapping[str, str]) -> str:
    key, _, where = text.partition(": ")
    return text if key == CHOSEN else f"{files[key]}: {where}"
