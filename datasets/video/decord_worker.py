"""``python -m datasets.video.decord_worker FD BYTES``: decord in a process of its own, which may hang or
crash.

On some damaged files decord waits for ever in native code that no exception and no signal handler reaches.
So each request arms an alarm whose default action ends this process; whoever asked sees its output close.

Requests are JSON lines on standard input, answers on standard output; pixels go through the shared memory
behind the file descriptor.
"""

import ctypes
import json
import math
import mmap
import os
import signal
import sys
from typing import Any

import numpy as np

FAULTS = 1
"""decord repeats a good frame for one that it cannot decode; after so many it raises instead."""


def main() -> int:
    """Answer requests until standard input closes."""
    handle, size = int(sys.argv[1]), int(sys.argv[2])
    memory = mmap.mmap(handle, size)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what decord prints must not mix with answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, which then closes our input
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    opened: tuple[str, int] | None = None
    reader: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            wanted = (request["path"], request["threads"])
            if opened != wanted:
                opened = None
                reader = decord.VideoReader(
                    wanted[0], ctx=decord.cpu(0), num_threads=wanted[1], fault_tol=FAULTS
                )
                opened = wanted
            answer = read(reader, request, memory)
        except Exception as error:
            opened = None
            answer = {"error": " ".join(str(error).split())[:200] or type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
    return 0


def read(reader: Any, request: dict[str, Any], memory: mmap.mmap) -> dict[str, Any]:
    """Put the frames of a request into memory at its offset; the answer is their shape and the count."""
    if request["rewind"]:
        reader.seek(0)
    frames = reader.get_batch(request["indices"])
    size = math.prod(frames.shape)
    if request["offset"] + size > len(memory):
        raise ValueError(f"frames of {frames.shape} are larger than expected")
    # decord's own way to NumPy copies once more, a tenth of the whole time.
    array = frames.handle.contents
    source = (ctypes.c_uint8 * size).from_address(array.data + array.byte_offset)
    np.copyto(np.frombuffer(memory, np.uint8, size, request["offset"]), np.ctypeslib.as_array(source))
    return {"shape": frames.shape, "frames": len(reader)}


if __name__ == "__main__":
    sys.exit(main())
