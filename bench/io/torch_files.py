"""Pickles and torch files of strangers, looked at before anything reads them: no bombs, no endless lists.

That they run no code is the unpicklers' own matter (``weights_only`` of torch, ``bench.convert_i3d``); but
those make whatever size a file claims. All a file may claim here is what it holds.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from bench.io.reading import MAX_WEIGHTS_BYTES, megabytes, open_regular

MAX_OPERATIONS = 1_000_000
"""Of a pickle; a tensor takes about forty. Each may take a hundred bytes, so that much memory is bounded."""
MAX_MEMBERS = 200_000
"""Of an archive: torch writes one for each tensor, and a few more."""
CHUNK = 2**20
LEGACY_PICKLES = 5
"""Pickles one after another at the beginning of a file of torch before 1.6."""


def check_pickle(stream: IO[bytes], pickles: int = 1) -> None:
    """Raise ValueError for a pickle of too many operations, or one that makes room which it does not fill."""
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
    """Return the members of an archive; raise ValueError for more than weights need."""
    found = archive.infolist()
    if len(found) > MAX_MEMBERS:
        raise ValueError(f"{len(found):,} members, allowed are at most {MAX_MEMBERS:,}")
    return found


def check_torch_file(path: Path, *, former: bool = False) -> None:
    """Raise ValueError for a file that torch would take more memory or time to read than its size says.

    With ``former`` files as they were before torch 1.6 are looked into, else refused.
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
                            finally:  # at the end its checksum is compared, which explains any other fault
                                while member.read(CHUNK):
                                    pass
                    except zipfile.BadZipFile:
                        raise ValueError(f"damaged in {each.filename}") from None
