"""What a run's process looks after beside the run: its parent, what it reads, and whether it is to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from datasets.video.frames import Reading, reading_now

READING_SECONDS = 2.0
"""What reads for longer is told of, so that it can be named if it never ends."""


def watch_parent() -> None:
    """End this process at once when its parent is gone, however it went: standard input then ends.

    So do the processes that it started, stuck ones too, if it leads a group of its own.
    """

    def wait() -> None:
        # Not through sys.stdin: the interpreter, on its way out, dies of a buffer that a thread holds.
        while os.read(0, 4096):
            continue
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def watch_reading(tell: Callable[[list[dict[str, Any]]], None]) -> None:
    """Tell of what is being read for longer than READING_SECONDS, and when that changes; not of the rest."""

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
    """Tell whether this process was asked to keep what it has and end: by SIGTERM, or by SIGUSR2."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, ask)
    return asked.is_set
