"""Check untrusted pickles and torch files before they are loaded: no decompression bombs, no endless lists.

The unpicklers themselves prevent code execution (``weights_only`` of torch, ``bench.convert.i3d``), but they
allocate any size that a file declares. These checks refuse a file that declares more than it contains.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from bench.io.reading import MAX_WEIGHTS_BYTES, megabytes, open_regular

MAX_OPERATIONS = 1_000_000
"""Opcodes of a pickle; a tensor takes about forty. Each may take a hundred bytes, so memory is bounded."""
MAX_MEMBERS = 200_000
"""Members of an archive: torch writes one for each tensor, and a few more."""
CHUNK = 2**20
LEGACY_PICKLES = 5
"""Number of consecutive pickles at the beginning of a file of torch before 1.6."""


def check_pickle(stream: IO[bytes], pickles: int = 1) -> None:
    """Raise ValueError for a pickle that has too many opcodes or allocates more than it contains."""
    operations = 0
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(stream):
            operations += 1
            if operations > MAX_OPERATIONS:
                raise ValueError(f"more than {MAX_OPERATIONS:,} operations, which no weights need")
            names = operation.name in ("GLOBAL", "INST") or operation.name.endswith("UNICODE")
            if names and str(argument).rpartition(" ")[2] == "bytearray":
                raise ValueError("it makes a bytearray, allowed are tensors and plain values")


def members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the members of an archive; raise ValueError if there are more than weights need."""
    found = archive.infolist()
    if len(found) > MAX_MEMBERS:
        raise ValueError(f"{len(found):,} members, allowed are at most {MAX_MEMBERS:,}")
    return found


def check_torch_file(path: Path, *, former: bool = False) -> None:
    """Raise ValueError for a file that needs more memory or time to load than its size suggests.

    With ``former``, files in the format before torch 1.6 are checked as well; otherwise they are refused.
    """
    with open_regular(path, MAX_WEIGHTS_BYTES) as stream:
        if not zipfile.is_zipfile(stream):
            if not former:
                raise ValueError("File is not a zip file")
            stream.seek(0)
            check_pickle(stream, LEGACY_PICKLES)
            return
        with zipfile.ZipFile(stream) as archive:
            found = members(archive)
            if any(each.compress_type != zipfile.ZIP_STORED for each in found):
                raise ValueError("it holds compressed parts, which torch never writes")
            size = stream.seek(0, 2)
            if sum(each.file_size for each in found) > size:
                raise ValueError(f"its parts claim more than the file's {megabytes(size)}")
            for each in found:
                if each.filename.endswith(".pkl"):
                    try:
                        with archive.open(each) as member:
                            try:
                                check_pickle(member)
                            finally:  # at the end the checksum is compared, which explains any other error
                                while member.read(CHUNK):
                                    pass
                    except zipfile.BadZipFile:
                        raise ValueError(f"damaged in {each.filename}") from None
