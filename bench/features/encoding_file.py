"""A file with the encodings of a video's clips, read and written pass by pass.

Layout: a header of ``HEADER_BYTES`` (the key, a newline, and the types and shapes of a clip's parts as JSON,
padded with spaces); a SHA-256 for each pass, zero if the pass is not stored; the passes, each with its parts
one after the other. A pass is written before its digest, so that a reader never takes a half-written pass.
Passes are read with ``pread``, not through a memory map: if the file is cut or its disk fails, that is an
error that can be caught, while a memory map would end the process by SIGBUS. The system's page cache serves
both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch

from bench.features.encode import INTEGERS, HostEncodings
from bench.io.errors import InputError
from bench.io.reading import open_regular
from bench.io.writing import write_atomically

HEADER_BYTES = 4096
DIGEST_BYTES = 32
MAX_BYTES = 2**40
"""Largest size of a video's encodings: ten hours at ViT-g's largest."""
DTYPES = {
    str(each): each
    for each in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64)
}
NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0)
DAMAGED = "damaged, or another video's"

Layout = tuple[tuple[torch.dtype, tuple[int, ...]], ...]
"""The type and the shape of each part of one clip's encoding."""


@dataclasses.dataclass(frozen=True)
class EncodingFile:
    """The file of one video: ``key`` names all that decides its values."""

    path: Path
    key: str
    clips: int
    """Number of clips of the video."""
    size: int
    """Clips per pass; the last pass may have fewer."""

    def has(self, number: int) -> bool:
        """Return whether a pass is stored; raise as ``read``."""
        with open_regular(self.path, MAX_BYTES) as stream:
            self._layout(os.pread(stream.fileno(), HEADER_BYTES, 0))
            return any(os.pread(stream.fileno(), DIGEST_BYTES, self._digest_place(number)))

    def read(self, number: int) -> HostEncodings | None:
        """Return the encodings of a pass, or None if it is not stored.

        Raises FileNotFoundError, other OSError, or InputError if the file is damaged.
        """
        with open_regular(self.path, MAX_BYTES) as stream:
            handle = stream.fileno()
            header = os.pread(handle, HEADER_BYTES, 0)
            layout = self._layout(header)
            digest = os.pread(handle, DIGEST_BYTES, self._digest_place(number))
            if not any(digest):
                return None
            count, place = self._count(number), self._place(number, layout)
            if os.fstat(handle).st_size < place + count * _clip_bytes(layout):
                raise InputError(DAMAGED)
            content = os.pread(handle, count * _clip_bytes(layout), place)
        if self._digest(header, number, content) != digest:
            raise InputError(DAMAGED)
        arrays, first = [], 0
        for dtype, shape in layout:
            whole = (count, *shape)
            kind = torch.empty(0, dtype=INTEGERS[dtype.itemsize]).numpy().dtype
            arrays.append(np.frombuffer(content, kind, math.prod(whole), first).reshape(whole))
            first += arrays[-1].nbytes
        return HostEncodings(tuple(arrays), tuple(dtype for dtype, _ in layout))

    def write(self, number: int, encoded: HostEncodings) -> None:
        """Store the encodings of a pass; raise OSError or InputError.

        A file with another header is replaced. Processes that write the same pass write the same bytes.
        """
        layout = tuple(
            (dtype, array.shape[1:]) for dtype, array in zip(encoded.dtypes, encoded.arrays, strict=True)
        )
        header = self._header(layout)
        try:
            with open_regular(self.path, MAX_BYTES) as stream:
                same = os.pread(stream.fileno(), HEADER_BYTES, 0) == header
        except (FileNotFoundError, InputError):
            same = False
        if not same:
            write_atomically(self.path, header + bytes(DIGEST_BYTES * self._passes))
        content = b"".join(array.tobytes() for array in encoded.arrays)
        handle = os.open(self.path, os.O_WRONLY | NO_FOLLOWING)
        try:
            _write(handle, content, self._place(number, layout))
            _write(handle, self._digest(header, number, content), self._digest_place(number))
        finally:
            os.close(handle)

    @property
    def _passes(self) -> int:
        return -(-self.clips // self.size)

    def _count(self, number: int) -> int:
        return min(self.size, self.clips - number * self.size)

    def _digest_place(self, number: int) -> int:
        return HEADER_BYTES + DIGEST_BYTES * number

    def _place(self, number: int, layout: Layout) -> int:
        return self._digest_place(self._passes) + number * self.size * _clip_bytes(layout)

    def _digest(self, header: bytes, number: int, content: bytes) -> bytes:
        digest = hashlib.sha256(header)
        digest.update(f"{number}\n".encode())
        digest.update(content)
        return digest.digest()

    def _header(self, layout: Layout) -> bytes:
        facts = {
            "clips": self.clips,
            "clips_per_pass": self.size,
            "parts": [[str(dtype), list(shape)] for dtype, shape in layout],
        }
        header = f"{self.key}\n{json.dumps(facts)}".encode()
        if len(header) > HEADER_BYTES:
            raise InputError(f"{len(layout)} parts of an encoding are too many for a file")
        return header.ljust(HEADER_BYTES)

    def _layout(self, header: bytes) -> Layout:
        """Return the layout that a header states; raise InputError if it is not the header of this file."""
        key, _, text = header.partition(b"\n")
        try:
            parts = json.loads(text)["parts"]
            layout = tuple((DTYPES[name], tuple(shape)) for name, shape in parts)
            same = self._header(layout) == header
        except (ValueError, TypeError, LookupError, RecursionError):
            raise InputError(DAMAGED) from None
        sizes = [size for _, shape in layout for size in shape]
        if key != self.key.encode() or not same or not all(type(n) is int and n > 0 for n in sizes):
            raise InputError(DAMAGED)
        return layout


def _clip_bytes(layout: Layout) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)


def _write(handle: int, content: bytes, place: int) -> None:
    """Write all bytes at ``place``; one call of ``pwrite`` writes at most 2 GiB."""
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, place)
        view, place = view[written:], place + written
