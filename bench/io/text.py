"""Escape and shorten untrusted text and values for messages and terminals."""

from __future__ import annotations

import re
import reprlib
from typing import Any, TypeGuard

MAX_MESSAGE_LENGTH = 2000
MAX_VALUE_LENGTH = 60
MAX_NAME_LENGTH = 200
"""Characters of a video's id, a class or any other name in a table."""
SHA256 = re.compile("[0-9a-f]{64}")
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Bidirectional control characters: they reorder the display, so that a text looks like another one."""
ACTING = rf"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{DIRECTIONS}"
"""Characters to escape, for a regular expression.

They are control characters, line ends, lone surrogates and bidirectional controls.
"""
_acting = re.compile(f"[{ACTING}]")
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _values.maxlong = MAX_VALUE_LENGTH


def printable(text: str, longest: int = MAX_MESSAGE_LENGTH) -> str:
    """Return the text as one line: unprintable characters are escaped, and a long text is truncated.

    A terminal executes control characters, and bidirectional ones display a different text.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def has_control_chars(text: str) -> bool:
    """Return whether a text has control characters, line ends, lone surrogates or bidirectional controls."""
    return _acting.search(text) is not None


def is_name(value: object) -> bool:
    """Return whether a value is a text that can be used as a name in tables, files and terminals."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and not has_control_chars(value)


def is_sha256(value: object) -> TypeGuard[str]:
    """Return whether a value is a SHA-256 in hexadecimal digits, which may be used in a file name."""
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def format_value(value: object) -> str:
    """Return a value in quotes or brackets, truncated in length and depth to fit on a line."""
    return printable(reprlib.repr(value))


def short(value: Any) -> str:
    """Return a value in ASCII, short enough for a one-line message."""
    text = _values.repr(value).encode("ascii", "backslashreplace").decode("ascii")
    return " ".join(text.split())[:MAX_VALUE_LENGTH]
