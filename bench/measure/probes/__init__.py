"""Facts of a device that no CPU tells: each by itself, so that one that fails stops no other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Probe = Callable[[Any], dict[str, Any]]
"""Takes the device, returns plain values; sizes are in bytes and named so."""


def run_probes(
    probes: Mapping[str, Probe], device: Any, environment: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Run the probes that the file does not hold for this device and commit, and write it after each.

    A probe that fails is recorded with its one-line error. Returns what the file then holds.
    """
    from bench.io.reading import MAX_RECORD_BYTES, read_json
    from bench.io.writing import write_atomically
    from bench.records.failure import failure

    same = ("device", "commit", "packages")
    held = read_json(path, MAX_RECORD_BYTES, finite=True) if path.exists() else {}
    known = held.get("environment", {})
    if any(known.get(name) != environment[name] for name in same):
        held = {"environment": dict(environment), "probes": {}}
    for name, probe in probes.items():
        if held["probes"].get(name, {}).get("status") == "ok":
            continue
        started = time.perf_counter()
        try:
            entry: dict[str, Any] = {"status": "ok", "message": None, "values": probe(device)}
        except Exception as error:
            status, message = failure(error)
            entry = {"status": status, "message": message, "values": None}
        held["probes"][name] = {**entry, "seconds": round(time.perf_counter() - started, 2)}
        write_atomically(path, json.dumps(held, indent=1, allow_nan=False).encode())
    return dict(held)
