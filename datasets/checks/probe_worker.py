"""``python -m datasets.checks.probe_worker``: looks into video files, one a request, and may hang or crash on
one.

Requests and answers are JSON lines. Each request arms an alarm whose default action ends this process, so a
file on which native code waits for ever ends as one answer less.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bench.io.errors import InputError


def main() -> int:
    """Answer requests until standard input closes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        answer = look(Path(request["path"]), request["every_frame"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
    return 0


def look(path: Path, every_frame: bool) -> dict[str, Any]:
    """The facts of a file as JSON values, with `decoded` frames if every one is tried, or its `error`."""
    from datasets.video.frames import probe
    from datasets.video.pyav_reader import count_decodable

    try:
        facts = dataclasses.asdict(probe(path))
        if every_frame:
            facts["decoded"] = count_decodable(path)
    except InputError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return facts


if __name__ == "__main__":
    sys.exit(main())
