"""Read untrusted files within limits: regular files only, with bounds on bytes, values and nesting.

All JSON that this process did not write itself is read by this module. A file that is too large is refused
before it is read; a gzip file that decompresses to too much is refused during decompression.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import io
import json
import math
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.io.errors import InputError
from bench.io.text import format_value, printable

MAX_WEIGHTS_BYTES = 2**36
"""Bytes of a checkpoint: eight times ViT-g's weights with their optimizer state."""
MAX_DATA_BYTES = 2**28
"""Bytes of an annotation or detection file, decompressed: 2.5 million detections, twice those of HACS."""
MAX_RECORD_BYTES = 2**24
"""Bytes of a record, a forecast or a table; the largest of this project has 71 kB."""
MAX_VALUES = 2**24
"""Values of a JSON file; a value may take a hundred bytes of memory."""
MAX_LEVELS = 64
"""Levels of nested lists and objects where the values are traversed."""
MAX_DIGITS = 20
"""Digits of integers that are used in computations: very long ones cannot be converted to floats."""
MAX_MEMBERS = 100_000
"""Members of a gzip file, which may be several concatenated; each takes some microseconds."""
GZIP_MAGIC = b"\x1f\x8b\x08"
NO_WAITING = getattr(os, "O_NONBLOCK", 0)
"""Without this flag, opening a named pipe would block until it has a writer."""


def open_regular(path: Path, largest: int) -> io.BufferedReader:
    """Return a regular file of at most ``largest`` bytes, opened for reading; raise InputError or OSError."""
    return os.fdopen(_open(path, largest)[0], "rb")


def _open(path: Path, largest: int) -> tuple[int, int]:
    """Return a file descriptor and the size of a regular file of at most ``largest`` bytes."""
    handle = os.open(path, os.O_RDONLY | NO_WAITING | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: cannot be read: Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: cannot be read: it is not a regular file")
        if status.st_size > largest:
            raise InputError(f"{path}: {megabytes(status.st_size)}, allowed are at most {megabytes(largest)}")
        return handle, status.st_size
    except BaseException:
        os.close(handle)
        raise


def megabytes(size: int) -> str:
    """Return a number of bytes as text for messages."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size:,} bytes"


def read_bytes(path: Path, largest: int) -> bytes:
    """Return a file's content; raise InputError if it is larger, not a regular file, or unreadable."""
    try:
        handle, size = _open(path, largest)
        try:
            content = os.read(handle, size + 1)
            if len(content) != size:  # it grew, does not tell its size, or is larger than one read
                with os.fdopen(handle, "rb", closefd=False) as stream:
                    content += stream.read(max(0, largest + 1 - len(content)))
        finally:
            os.close(handle)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    if len(content) > largest:
        raise InputError(f"{path}: more than {megabytes(largest)}, which is the most that is allowed")
    return content


def read_text(path: Path, largest: int = MAX_RECORD_BYTES) -> str:
    """Return a file's text, UTF-8 with or without a byte order mark; raise InputError as ``read_bytes``."""
    try:
        return read_bytes(path, largest).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8") from None


def read_json(path: Path, largest: int = MAX_DATA_BYTES, *, finite: bool = False) -> Any:
    """Return the values of a JSON file, decompressed if its name ends in ``.gz``; raise InputError.

    Duplicate keys are refused: the first value would be lost silently. With ``finite``, these are refused
    too: numbers that are not finite, integers of more than ``MAX_DIGITS`` digits, and nesting deeper than
    ``MAX_LEVELS``.
    """
    content, packed = read_bytes(path, largest), path.suffix == ".gz"
    return parse_json(content, str(path), largest, packed=packed, finite=finite)


def parse_json(
    content: bytes, where: str, largest: int = MAX_DATA_BYTES, *, packed: bool = False, finite: bool = False
) -> Any:
    """Return the values of JSON text, as ``read_json`` does; messages begin with ``where``."""
    try:
        if packed:
            content = decompressed(content, largest)
        if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
            raise InputError(f"{where}: more than {MAX_VALUES:,} values, which is the most that is allowed")
        if (values := _quickly(content, finite)) is not msgspec.UNSET:
            return values
        text = content.decode("utf-8-sig")
        if not finite:
            return json.loads(text, object_pairs_hook=_unique_keys)
        values = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_number,
            parse_float=_finite_number,
            parse_int=_usual_number,
        )
        if not _is_shallow(values):
            raise RecursionError
        return values
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{where}: nested too deeply; allowed are {MAX_LEVELS} levels") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: line {error.lineno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: not JSON: not text in UTF-8") from None
    except (zlib.error, gzip.BadGzipFile):
        raise InputError(f"{where}: damaged, or not gzip") from None
    except EOFError as error:
        raise InputError(f"{where}: truncated: {error}") from None
    except ValueError as error:  # a number of thousands of digits, or a duplicate key
        raise InputError(f"{where}: not JSON: {reason(error)}") from None


def has_unique_keys(values: Any, content: bytes) -> bool:
    """Return whether ``content``, which was parsed to ``values``, has no duplicate keys.

    ``content`` must hold no escaped colon. The values encoded again have as many colons as ``content``, those
    inside strings included, unless a key was lost.
    """
    return msgspec.json.encode(values).count(b":") == content.count(b":")


def _quickly(content: bytes, finite: bool) -> Any:
    """Return the values of JSON text if msgspec reads it; else UNSET, and json then reports the error."""
    if b"\\u003" in content:  # it may be an escaped colon
        return msgspec.UNSET
    try:
        values = msgspec.json.decode(content)
        usual = (not finite or _is_shallow(values)) and has_unique_keys(values, content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return msgspec.UNSET
    return values if usual else msgspec.UNSET


def decompressed(content: bytes, largest: int) -> bytes:
    """Return a decompressed gzip file; raise ValueError above ``largest`` bytes, EOFError if truncated."""
    if content.count(GZIP_MAGIC) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS:,} gzip files one after another")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            found = stream.read(largest + 1)
    except EOFError:
        raise EOFError("the gzip file ends too early") from None
    if len(found) > largest:
        raise ValueError(f"unpacks to more than {megabytes(largest)}")
    if not content:
        raise EOFError("the gzip file ends too early")
    return found


def relative_message(error: InputError, path: Path) -> str:
    """Return an error's message with the file's path replaced by its name, for lists of problems."""
    return f"{printable(path.name)}: {str(error).removeprefix(f'{printable(str(path))}: ')}"


@contextlib.contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Prefix the messages of InputError raised in the block with the file's path, as read_json does."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{printable(str(path))}: ')}") from None


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disable garbage collection in the block: it would traverse all values read, many times."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            # Moves all objects to the oldest generation, so that the next collection is not of all of them;
            # what a caller has frozen stays frozen.
            frozen = gc.get_freeze_count()
            gc.freeze()
            if not frozen:
                gc.unfreeze()
            gc.enable()


def reason(error: Exception) -> str:
    """Return an error's message as one short line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(str(text).split()), 200)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {format_value(twice)} is given twice")
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"{text}: a finite number is needed")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{format_value(text)}: a finite number is needed")
    return value


def _usual_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{format_value(text)}: a number of at most {MAX_DIGITS} digits is needed")
    return int(text)


CONTAINERS = frozenset((dict, list))
LEAST, MAX_NUMBER = -(10 ** (MAX_DIGITS - 1)), 10**MAX_DIGITS
"""Integers between these have at most ``MAX_DIGITS`` characters."""


def _is_shallow(value: Any) -> bool:
    """Return whether no list or object is nested too deeply and no integer has too many digits."""
    level: list[Any] = [[value]]
    for _ in range(MAX_LEVELS + 1):
        inner: list[Any] = []
        for each in level:
            inner += each.values() if type(each) is dict else each
        if not all(LEAST < each < MAX_NUMBER for each in inner if type(each) is int):
            return False
        level = [each for each in inner if type(each) in CONTAINERS]
        if not level:
            return True
    return False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; raise InputError if it cannot be read."""
    try:
        with open_regular(path, MAX_WEIGHTS_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
