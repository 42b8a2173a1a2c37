"""Identity of a run: what determines its result, and the run id derived from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What determines a run's result: two runs with equal identity are the same run."""

    model: str
    weights_sha256: str | None
    strategy: Mapping[str, Any]
    """The strategy's settings, with its ``name``, as a record holds them."""
    dataset: tuple[str, str, str]
    """Name, variant, and the SHA-256 of the annotations."""
    protocol_digest: str
    device: str
    """As given in the run's configuration: ``cpu``, ``cuda`` or ``cuda:N``."""
    seed: int
    processes: int = 1
    sharded: bool = False

    def run_id(self) -> str:
        """Return a unique, readable and path-safe name."""
        parts = {
            "model": self.model,
            "weights": self.weights_sha256,
            "strategy": self.strategy,
            "dataset": list(self.dataset),
            "protocol": self.protocol_digest,
            "device": self.device,
            "seed": self.seed,
            # Several processes give the results of one, but other memory and time.
            **({"processes": [self.processes, self.sharded]} if self.processes > 1 else {}),
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", self.dataset[0])[:40]
        return f"{name}_{self.model}_{self.strategy['name']}_seed{self.seed}_{digest}"
