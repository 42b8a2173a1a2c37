"""Files made wrong at random: JSON documents by their structure, any file by its bytes."""

import copy
import json
import random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    -0.0,
    10**30,
    2**63,
    float("nan"),
    float("inf"),
    "",
    " ",
    "1e3",
    "nan",
    "-3",
    "1,5",
    "\u0000",
    "\ud800",
    "a\nb",
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "x" * 5000,
    "é\u202e",
    [],
    {},
    [[]],
    [1],
    [1, 2, 3],
    ["1", "2"],
    [2, 1],
    {"segment": [0, 1], "label": "run"},
    -(10**400),
    10**4000,
    1e-320,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "](javascript:alert(1))",
    "\\input{/etc/passwd}",
    "$\\frac{",
    "\x1b[2J\x1b]0;title\x07",
    "CON",
    "-rf",
    "%s%n{0}",
    "x" * 1_000_000,
    "../../../tmp/canary",
    ["x" * 300] * 50,
    {"a": {"b": {"c": [{}]}}},
    {str(number): number for number in range(300)},
)
WHOLE: tuple[bytes, ...] = (
    b"",
    b" ",
    b"[" * 1_000_000,
    b'{"a":' * 1_000_000,
    b"[" * 900 + b"]" * 900,
    b"9" * 100_000,
    b"1e999999999",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00" * 1000,
    b'{"\\ud800": 1}',
    b'{"a": NaN, "b": -Infinity}',
    b'{"a": 1, "a": 2}',
    b"[],[]",
    b"null",
    b'"' + b"x" * 2_000_000 + b'"',
    b"[" + b"[]," * 300_000 + b"[]]",
)
"""Files that are wrong as a whole."""
TEXTS: tuple[bytes, ...] = (
    b"9" * 100_000,
    b"1e99999",
    b"-Infinity",
    b"NaN",
    b"[" * 1_000_000,
    b"[" * 985 + b"]" * 985,
    b'{"a":' * 985 + b"1" + b"}" * 985,
    b'"\\ud800"',
    b'"\xff"',
    b'"' + b"\\u0000" * 1000 + b'"',
    b'{"a": 1, "a": 2}',
)
"""What stands in a file for a value, where no JSON library would write it."""


def mutated_document(rng: random.Random, document: Any) -> bytes:
    """The JSON text of a document after a few changes; now and then its bytes are changed as well."""
    if rng.random() < 0.02:
        return rng.choice(WHOLE)
    document = copy.deepcopy(document)
    if rng.random() < 0.1:
        return _replaced_text(rng, document)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        document = _changed(rng, document)
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        content = mutated_bytes(rng, content)
    if rng.random() < 0.02:
        content = content[:-1] + b"[" * rng.choice([100, 100_000])
    return content


def _replaced_text(rng: random.Random, document: Any) -> bytes:
    """The JSON text of a document with a text somewhere in it that is no value."""
    places = list(_places(document))
    if places:
        parent, key = rng.choice(places)
        parent[key] = "@here@"
    return json.dumps(document).encode().replace(b'"@here@"', rng.choice(TEXTS))


def _changed(rng: random.Random, document: Any) -> Any:
    """The document with a value somewhere replaced, removed, renamed, repeated or moved."""
    places = list(_places(document))
    if not places:
        return rng.choice(ODD_VALUES)
    parent, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, dict):
        parent[str(rng.choice(ODD_VALUES))] = parent.pop(key)
    elif action == 2 and isinstance(parent, list):
        parent.insert(rng.randint(0, len(parent)), copy.deepcopy(rng.choice(parent)))
    elif action == 3:
        other, name = rng.choice(places)
        if name in other if isinstance(other, dict) else name < len(other):
            parent[key] = copy.deepcopy(other[name])
    elif action == 4 and isinstance(parent[key], int | float):
        parent[key] = _scaled(rng, parent[key])
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return document


def _scaled(rng: random.Random, value: float) -> float:
    try:
        return value * rng.choice([-1, 0, 1e-9, 1e9, 1.0000001])
    except OverflowError:
        return -value


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _places(inner)


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """The content after a few changes: bits, runs of noise or zeros, cuts, repeats, swapped parts."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 6])):
        if not data:
            break
        # Headers decide most: half of all changes fall into the first or last kilobyte.
        near = rng.choice([len(data), 1024, -1024, len(data)])
        at = (
            rng.randrange(min(near, len(data)))
            if near > 0
            else len(data) - 1 - rng.randrange(min(-near, len(data)))
        )
        run = min(len(data) - at, rng.choice([1, 4, 64, 4096, len(data) // 3 + 1]))
        action = rng.randrange(7)
        if action == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[at : at + run] = rng.randbytes(run)
        elif action == 2:
            data[at : at + run] = bytes(run)
        elif action == 3:
            del data[at : at + run]
        elif action == 4:
            data[at:at] = data[at : at + run]
        elif action == 5:
            del data[at:]
        else:
            data[at] = rng.choice([0, 0xFF, 0x7F, 0x80])
    return bytes(data)
