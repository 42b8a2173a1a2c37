"""How a run's process ended where it could not say so itself: by a signal, without memory, in silence."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import IO, Any

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
VMSTAT = Path("/proc/vmstat")
LAST_BYTES = 2000


def oom_kill_count() -> int | None:
    """Return how many processes Linux has killed for want of memory so far; None where it does not say.

    In this process's control group, which is a container's or a batch job's own, or else on the machine.
    """
    for path in (*_counters(), VMSTAT):
        try:
            fields = dict(line.split() for line in path.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _counters() -> list[Path]:
    """Return where the kills of this process's control group may stand, of either version of such groups."""
    try:
        lines = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in sorted(lines, key=lambda line: line[1] == ""):
        if "memory" in controllers.split(","):
            root, name = GROUPS / "memory", "memory.oom_control"
        elif not controllers:
            root, name = GROUPS, "memory.events"
        else:
            continue
        # A container may see its own group as the root, and hear its name as the host spells it.
        found += [root / path.lstrip("/") / name, root / name]
    return found


def oom_killed_since(kills_before: int | None) -> bool | None:
    """Say whether the system has killed for want of memory since ``oom_kill_count`` said so many."""
    kills = oom_kill_count()
    return None if kills is None or kills_before is None else kills > kills_before


OUT_OF_HOST_MEMORY = {
    "status": "out-of-memory",
    "message": "killed by the system, which ran out of host memory",
    "failure": None,
}


def classify_exit(
    code: int | None, errors: IO[bytes], kills_before: int | None, processes: int = 1
) -> dict[str, Any]:
    """Return status, message and facts of a process that ended with ``code`` and without a result.

    ``errors`` holds what it wrote as errors, ``kills_before`` what ``oom_kill_count`` said when it began; it
    may have stood for several ``processes``. What the system killed for want of memory would be killed
    again: that is a row of its own. What a signal from outside ended is done again.
    """
    by_system = oom_killed_since(kills_before)
    if by_system and (code == -signal.SIGKILL or (code == 1 and processes > 1)):
        return OUT_OF_HOST_MEMORY
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        message = f"killed by signal {-code} ({name})"
        if -code == signal.SIGKILL and by_system is None:
            message += ", as the system does when memory runs out"
        return {"status": "error", "message": message, "failure": {"signal": name}}
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - LAST_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    message = f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")
    return {"status": "error", "message": message, "failure": None}
