"""Seeds of their own for every purpose."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *names: object) -> int:
    """Return a seed for one purpose, so that what one part draws never shifts what another draws."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
