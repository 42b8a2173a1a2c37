"""The interface of strategies: wrap a backbone, and define what trains, how fast and on which input.

A strategy is a frozen dataclass. Its fields are its hyper-parameters: the constructor is the
configuration, ``dataclasses.asdict`` goes into the record, and ``--set name.field=value`` sets them.
It has no state and no access to data, losses, head design, optimizer or seeds.
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
    """The resolution of a step's input (LoFi, section 3: full fidelity is L x H x W)."""

    temporal: float = 1.0
    """Fraction of the snippets (groups of frames of one feature step) that are kept."""
    spatial: float = 1.0
    """Fraction of the height, and of the width."""

    def __post_init__(self) -> None:
        if not (0 < self.temporal <= 1 and 0 < self.spatial <= 1):
            raise ValueError(f"a fidelity must be in (0, 1], got {self}")


FULL = Fidelity()


@dataclasses.dataclass(frozen=True)
class Rule:
    """Trains parameters whose full name matches ``pattern`` at ``lr`` times the protocol's learning rate.

    Names are those of a detector: ``backbone.<name>`` and ``head.<name>``. ``lr`` of 0 freezes.
    """

    pattern: str
    lr: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage. The first rule that fully matches a name applies; no match means frozen."""

    name: str
    rules: tuple[Rule, ...]
    share: float = 1.0
    """Fraction of the protocol's steps. The shares of all stages add up to 1."""
    fidelities: tuple[Fidelity, ...] = (FULL,)
    """Input fidelities, used in turn; each is used for ``hold`` steps or epochs."""
    hold: int = 1
    hold_unit: Literal["steps", "epochs"] = "epochs"
    fresh_head: bool = False
    """Start the stage with a newly initialised head."""

    def fidelity_at(self, step: int, steps_per_epoch: int) -> Fidelity:
        """Return the fidelity of the stage's step ``step``, counted from 0."""
        period = self.hold * (steps_per_epoch if self.hold_unit == "epochs" else 1)
        return self.fidelities[step // period % len(self.fidelities)]


class Strategy(Protocol):
    """The interface of strategies. ``strategies.testing.check_strategy`` tests its contract."""

    name: ClassVar[str]

    def adapt(self, backbone: Backbone) -> Backbone:
        """Return the backbone, wrapped or unchanged; shapes of input and output stay the same."""
        ...

    def stages(self) -> tuple[Stage, ...]:
        """Return the training stages in their order."""
        ...


def learning_rates(rules: Iterable[Rule], names: Iterable[str]) -> dict[str, float]:
    """Return the learning-rate factor of every parameter name that trains.

    Raises ValueError if a rule matches none of the names, which is probably a mistake.
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
    """Raise ValueError unless the stages have unique names and shares that add up to 1."""
    if not stages or not math.isclose(sum(stage.share for stage in stages), 1.0, abs_tol=1e-9):
        raise ValueError(f"the shares of the stages must add up to 1, got {[s.share for s in stages]}")
    if len({stage.name for stage in stages}) < len(stages):
        raise ValueError(f"stages need unique names, got {[s.name for s in stages]}")


def settings(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy's name and all its fields for the record."""
    assert dataclasses.is_dataclass(strategy)
    assert not isinstance(strategy, type)
    return {"name": strategy.name, **dataclasses.asdict(strategy)}
