"""Watchdogs in a run's process: for its parent, for slow reads, and for stop signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from datasets.video import Reading, reading_now

READING_SECONDS = 2.0
"""Reads that take longer are reported, so that they can be named if they never end."""


def watch_parent() -> None:
    """End this process when its parent is gone for any reason, detected by the end of standard input.

    If it leads a process group, the whole group is killed, including descendants that hang.
    """

    def wait() -> None:
        # Not sys.stdin: the interpreter aborts at shutdown if a thread holds its buffer's lock.
        while os.read(0, 4096):
            continue
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def watch_reading(tell: Callable[[list[dict[str, Any]]], None]) -> None:
    """Call ``tell`` with the reads that take longer than READING_SECONDS, whenever these change."""

    def watch() -> None:
        told: tuple[Reading, ...] = ()
        while True:
            time.sleep(READING_SECONDS / 2)
            now = time.monotonic()
            slow = tuple(each for each in reading_now() if now - each.since > READING_SECONDS)
            if slow != told:
                told = slow
                tell(
                    [
                        {
                            "video": str(each.path),
                            "first_frame": each.first,
                            "last_frame": each.last,
                            "seconds": round(now - each.since, 1),
                        }
                        for each in slow
                    ]
                )

    threading.Thread(target=watch, daemon=True).start()


def stop_signals() -> Callable[[], bool]:
    """Return a function that returns whether SIGTERM or SIGUSR2 has asked this process to stop."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, ask)
    return asked.is_set
