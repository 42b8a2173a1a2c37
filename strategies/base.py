"""What a strategy is: how to wrap a backbone, and plain data that says what trains, how fast, on what input.

A strategy is a frozen dataclass. Its fields are its hyper-parameters: the constructor is the
configuration, ``dataclasses.asdict`` goes into the record, and ``--set name.field=value`` sets them.
It has no state and sees neither data, losses, head design, optimizer nor seeds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How much of the full input a step sees (LoFi, section 3: full fidelity is L x H x W)."""

    temporal: float = 1.0
    """Fraction of the snippets (groups of frames behind one feature step) that are kept."""
    spatial: float = 1.0
    """Fraction of the height, and of the width."""

    def __post_init__(self) -> None:
        if not (0 < self.temporal <= 1 and 0 < self.spatial <= 1):
            raise ValueError(f"a fidelity lies in (0, 1], got {self}")


FULL = Fidelity()


@dataclasses.dataclass(frozen=True)
class Rule:
    """Parameters whose full name matches ``pattern`` train at ``lr`` times the protocol's learning rate.

    Names are those of a detector: ``backbone.<name>`` and ``head.<name>``. ``lr`` of 0 freezes.
    """

    pattern: str
    lr: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage. The first rule that matches a name in full wins; no match means frozen."""

    name: str
    rules: tuple[Rule, ...]
    share: float = 1.0
    """Fraction of the protocol's steps. The shares of all stages add up to 1."""
    fidelities: tuple[Fidelity, ...] = (FULL,)
    """Input fidelities, taken in turn; each is held for ``hold`` steps or epochs."""
    hold: int = 1
    hold_unit: Literal["steps", "epochs"] = "epochs"
    fresh_head: bool = False
    """Start the stage with a newly initialised head."""

    def fidelity_at(self, step: int, steps_per_epoch: int) -> Fidelity:
        """Return the fidelity of the stage's step ``step``, counted from 0."""
        period = self.hold * (steps_per_epoch if self.hold_unit == "epochs" else 1)
        return self.fidelities[step // period % len(self.fidelities)]


class Strategy(Protocol):
    """The interface. ``strategies.testing.check_strategy`` asks every strategy to keep its contract."""

    name: ClassVar[str]

    def adapt(self, backbone: Backbone) -> Backbone:
        """Return the backbone, wrapped or as it is; shapes of input and output stay the same."""
        ...

    def stages(self) -> tuple[Stage, ...]:
        """Return the training stages in their order."""
        ...


def learning_rates(rules: Iterable[Rule], names: Iterable[str]) -> dict[str, float]:
    """Return the factor of the learning rate for every name that trains.

    Raises ValueError when a rule matches none of the names: it then says less than its author thinks.
    """
    rules = tuple(rules)
    matched = dict.fromkeys(rules, False)
    factors: dict[str, float] = {}
    for name in names:
        hits = [rule for rule in rules if re.fullmatch(rule.pattern, name)]
        matched.update(dict.fromkeys(hits, True))
        if hits and hits[0].lr > 0:
            factors[name] = hits[0].lr
    unused = [rule.pattern for rule in rules if not matched[rule]]
    if unused:
        raise ValueError(f"rules that match no parameter: {', '.join(unused)}")
    return factors


def check_stages(stages: tuple[Stage, ...]) -> None:
    """Raise ValueError unless the stages have names of their own and shares that add up to 1."""
    if not stages or not math.isclose(sum(stage.share for stage in stages), 1.0, abs_tol=1e-9):
        raise ValueError(f"the shares of the stages must add up to 1, got {[s.share for s in stages]}")
    if len({stage.name for stage in stages}) < len(stages):
        raise ValueError(f"stages need names of their own, got {[s.name for s in stages]}")


def settings(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy's name and all its fields, as they go into the record."""
    assert dataclasses.is_dataclass(strategy)
    assert not isinstance(strategy, type)
    return {"name": strategy.name, **dataclasses.asdict(strategy)}
