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
)


def mutated_document(rng: random.Random, document: Any) -> bytes:
    """The JSON text of a document after a few changes; now and then its bytes are changed as well."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 4])):
        document = _changed(rng, document)
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    if rng.random() < 0.25:
        content = mutated_bytes(rng, content)
    if rng.random() < 0.02:
        content = content[:-1] + b"[" * rng.choice([100, 100_000])
    return content


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
        parent[key] = parent[key] * rng.choice([-1, 0, 1e-9, 1e9, 1.0000001])
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return document


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
