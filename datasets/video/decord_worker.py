"""``python -m datasets.video.decord_worker FD BYTES``: decord in its own process, which may hang or crash.

On some damaged files decord hangs forever in native code; the alarm of ``bench.io.json_lines`` then ends
this process. Pixels are passed through shared memory, given by the file descriptor.
"""

import ctypes
import math
import mmap
import sys
from typing import Any

import numpy as np

from bench.io.json_lines import serve

FAULTS = 1
"""Allowed decoding faults: decord repeats a good frame for one that it cannot decode, then raises."""


def main() -> None:
    """Answer requests until standard input closes."""
    handle, size = int(sys.argv[1]), int(sys.argv[2])
    memory = mmap.mmap(handle, size)
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    opened: tuple[str, int, int] | None = None
    reader: Any = None

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal opened, reader
        wanted = (request["path"], request["threads"], request["modified"])
        try:
            if opened != wanted:
                opened = None
                reader = decord.VideoReader(
                    wanted[0], ctx=decord.cpu(0), num_threads=wanted[1], fault_tol=FAULTS
                )
                opened = wanted
            return read(reader, request, memory)
        except Exception as error:
            opened = None
            return {"error": " ".join(str(error).split())[:200] or type(error).__name__}

    serve(answer)


def read(reader: Any, request: dict[str, Any], memory: mmap.mmap) -> dict[str, Any]:
    """Write the frames of a request into memory at its offset; return their shape and the frame count."""
    frames = reader.get_batch(request["indices"])
    size = math.prod(frames.shape)
    if request["offset"] + size > len(memory):
        raise ValueError(f"frames of {frames.shape} are larger than expected")
    # decord's conversion to NumPy makes another copy, 10% of the total time.
    array = frames.handle.contents
    source = (ctypes.c_uint8 * size).from_address(array.data + array.byte_offset)
    np.copyto(np.frombuffer(memory, np.uint8, size, request["offset"]), np.ctypeslib.as_array(source))
    return {"shape": frames.shape, "frames": len(reader)}


if __name__ == "__main__":
    main()
