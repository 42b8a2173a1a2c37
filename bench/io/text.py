"""Text and values of strangers as messages and terminals can show them: short, and no character acts."""

from __future__ import annotations

import re
import reprlib
from typing import Any, TypeGuard

MAX_MESSAGE_LENGTH = 2000
MAX_VALUE_LENGTH = 60
MAX_NAME_LENGTH = 200
"""Characters of a video's id, a class, or whatever else becomes part of a table."""
SHA256 = re.compile("[0-9a-f]{64}")
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They turn what follows around: a text shows as another one."""
ACTING = rf"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{DIRECTIONS}"
"""Characters that do more than show themselves, for a regular expression: controls, ends of lines, halves of
pairs, turns."""
_acting = re.compile(f"[{ACTING}]")
_values = reprlib.Repr()
_values.maxstring = _values.maxother = _values.maxlong = MAX_VALUE_LENGTH


def printable(text: str, longest: int = MAX_MESSAGE_LENGTH) -> str:
    """Return the text as one line: what is no printable character becomes its escape, a long text is cut.

    A terminal obeys control characters, and those of direction show a text other than it is.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def has_control_chars(text: str) -> bool:
    """Return whether any character of a text does more than show itself: controls, half pairs, turns."""
    return _acting.search(text) is not None


def is_name(value: object) -> bool:
    """Return whether a value is a text that tables, files and terminals can hold as a name."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and not has_control_chars(value)


def is_sha256(value: object) -> TypeGuard[str]:
    """Return whether a value is a SHA-256 in hexadecimal digits; it may become part of a file's name."""
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def format_value(value: object) -> str:
    """Return a value in quotes or brackets, cut to a length and depth that fit on a line."""
    return printable(reprlib.repr(value))


def short(value: Any) -> str:
    """Return what was found as a message of one line can hold it, in ASCII."""
    text = _values.repr(value).encode("ascii", "backslashreplace").decode("ascii")
    return " ".join(text.split())[:MAX_VALUE_LENGTH]
