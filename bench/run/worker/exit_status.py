"""Status of a run's process that ended without a result: by a signal, by the OOM killer, or by an error."""

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
    """Return the number of processes that the Linux OOM killer has ended; None if it is unknown.

    Counts those in this process's control group (that of a container or a batch job), or else on the machine.
    """
    for path in (*_counters(), VMSTAT):
        try:
            fields = dict(line.split() for line in path.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def _counters() -> list[Path]:
    """Return the possible files with the OOM-kill counter of this process's cgroup (version 1 or 2)."""
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
        # In a container the cgroup may be mounted as the root, while its path is that on the host.
        found += [root / path.lstrip("/") / name, root / name]
    return found


def oom_killed_since(kills_before: int | None) -> bool | None:
    """Return whether the OOM killer was active since ``oom_kill_count`` returned ``kills_before``."""
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
    """Return status, message and failure facts of a process that ended with ``code`` and without a result.

    ``errors`` is its standard error, ``kills_before`` the value of ``oom_kill_count`` at its start, and
    ``processes`` the number of processes of the run. A run ended by the OOM killer has the status
    out-of-memory, as it would be killed again. A run ended by an external signal is run again.
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
