"""The interface of strategies: wrap a backbone, and define what trains, how fast and on which input.

A strategy is a frozen dataclass. Its fields are its hyper-parameters: the constructor is the
configuration, ``dataclasses.asdict`` goes into the record, and ``--set name.field=value`` sets them.
It has no state and no access to data, losses, head design, optimizer or seeds.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from bench.io.errors import InputError

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """The resolution of a step's input (LoFi, section 3: full fidelity is L x H x W)."""

    temporal: float = 1.0
    """Fraction of the snippets (frames that are encoded together) that are kept."""
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

    def __post_init__(self) -> None:
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"a learning rate is 0 or more, in multiples of the protocol's, got {self.lr}")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage. The first rule that fully matches a name applies; no match means frozen."""

    name: str
    rules: tuple[Rule, ...]
    share: float = 1.0
    """Steps in fractions of the protocol's. The shares of stages that are not added add up to 1."""
    fidelities: tuple[Fidelity, ...] = (FULL,)
    """Input fidelities, used in turn; each is used for ``hold`` steps or epochs."""
    hold: int = 1
    hold_unit: Literal["steps", "epochs"] = "epochs"
    fresh_head: bool = False
    """Start the stage with a newly initialised head."""
    added: bool = False
    """Whether the steps of the stage are added to the protocol's, instead of being some of them."""
    backward_share: float = 1.0
    """Share of a window's clips whose gradient reaches the backbone, in (0, 1]; drawn anew in each step.

    Below 1, clips are run in passes whatever the protocol's ``backward`` is: all of them without a graph,
    then the drawn ones again with a graph. The backbone's clips must not mix.
    """
    backward_scaled: bool = False
    """Whether the gradient of the drawn clips is scaled up, so that its mean is the gradient of all clips."""

    def __post_init__(self) -> None:
        if not 0 < self.backward_share <= 1:
            raise ValueError(f"backward_share must be in (0, 1], got {self.backward_share}")

    def fidelity_at(self, step: int, steps_per_epoch: int) -> Fidelity:
        """Return the fidelity of the stage's step ``step``, counted from 0."""
        period = self.hold * (steps_per_epoch if self.hold_unit == "epochs" else 1)
        return self.fidelities[step // period % len(self.fidelities)]


class Strategy(Protocol):
    """The interface of strategies. ``strategies.testing.check_strategy`` tests its contract.

    A class may have ``needs: ClassVar[tuple[str, ...]]``, what it changes of a model: ``backbone`` (the
    default) or ``attention`` (a transformer's blocks); with none of them it also trains on features in files.
    A model without these gets an empty row with the reason. ``packages``, pairs of an optional package and
    the extra of talbench that installs it, are looked for before anything runs.

    ``mixes_clips`` is true if the adapted backbone's is: such a strategy is left out where the backward is
    streamed.

    A class may have a method ``head_size(size, backbone, count)``, for a head of another size than the
    protocol's. ``size`` is the protocol's (``bench.config.protocol.HeadSize``), ``backbone`` the adapted one;
    ``count(size)`` returns a head's number of parameters. It returns a changed ``size``.
    """

    name: ClassVar[str]

    def adapt(self, backbone: Backbone) -> Backbone:
        """Return the backbone, wrapped, changed or unchanged; shapes of input and output stay the same.

        Only the features' channels may differ (a middle layer's), if the result's ``geometry.width`` says so.
        Modules may be inserted (``insert_after_layers``), replaced, or frozen for the whole run by
        ``requires_grad_(False)``: no rule trains a parameter that is frozen here.
        """
        ...

    def stages(self) -> tuple[Stage, ...]:
        """Return the training stages in their order."""
        ...


def learning_rates(rules: Iterable[Rule], names: Iterable[str]) -> dict[str, float]:
    """Return the learning-rate factor of every parameter name that trains.

    Raises ValueError if a rule matches none of the names, which is probably a mistake.
    """
    rules, names = tuple(rules), tuple(names)
    matched = dict.fromkeys(rules, False)
    factors: dict[str, float] = {}
    for name in names:
        hits = [rule for rule in rules if re.fullmatch(rule.pattern, name)]
        matched.update(dict.fromkeys(hits, True))
        if hits and hits[0].lr > 0:
            factors[name] = hits[0].lr
    unused = [rule.pattern for rule in rules if not matched[rule]]
    if unused:
        groups = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
        raise ValueError(
            f"rules that match no parameter: {', '.join(unused)}; parameters begin with {', '.join(groups)}"
        )
    return factors


def check_stages(stages: tuple[Stage, ...]) -> None:
    """Raise ValueError unless the stages have unique names and shares that add up to 1, added ones aside."""
    shares = [stage.share for stage in stages if not stage.added]
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"the shares of the stages that are not added must add up to 1, got {shares}")
    if len({stage.name for stage in stages}) < len(stages):
        raise ValueError(f"stages need unique names, got {[s.name for s in stages]}")


def stage_ends(stages: Sequence[Stage], steps: int) -> list[int]:
    """Return the number of steps at the end of each stage; the last is the total of a run.

    ``steps`` is the protocol's number, which stages that are not added share.
    """
    ends, shared, added = [], 0.0, 0
    for stage in stages:
        if stage.added:
            added += round(stage.share * steps)
        else:
            shared += stage.share
        ends.append(round(shared * steps) + added)
    return ends


def settings(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy's name and all its fields for the record."""
    assert dataclasses.is_dataclass(strategy)
    assert not isinstance(strategy, type)
    return {"name": strategy.name, **dataclasses.asdict(strategy)}


def layer_indices(strategy: Strategy, field: str, count: int, default: Sequence[int]) -> tuple[int, ...]:
    """Return the layers that a strategy's field names, ascending, negative ones from the end.

    An empty field means ``default``. Raises InputError if there are no such layers; there are ``count``.
    """
    wanted: tuple[int, ...] = getattr(strategy, field)
    wrong = [layer for layer in wanted if not -count <= layer < count]
    if wrong:
        raise InputError(
            f"strategy {strategy.name}: field '{field}' has {wrong}, allowed are {-count} to {count - 1}"
        )
    return tuple(sorted({layer % count for layer in wanted})) or tuple(default)
