"""What a record must hold so that tables, figures and checks can use it, whoever wrote it.

A check takes a value and where it stands, and raises InputError that names the field and what is allowed.
Where that is becomes text only then: a record has a thousand values, and a folder ten thousand records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from bench.detection.diagnosis import KINDS, MULTIPLES
from bench.io.errors import InputError
from bench.io.text import LONGEST_NAME, is_name, is_sha256, shown

Where = str | tuple["Where", str | int]
"""A field's name, or where it stands and its key or index there."""
Check = Callable[[Any, Where], None]
LARGEST = 2**63
"""No number of a record is as large: neither bytes nor steps nor seconds."""
NUMBERS = (int, float)
"""As JSON has them: a truth value is none."""
LONGEST_TEXT = 10_000
MOST_ENTRIES = 10_000


def refuse(value: Any, where: Where, allowed: str) -> None:
    """Raise InputError that shows a value and what is allowed."""
    raise InputError(f"field '{spelt(where)}' is {shown(value)}, allowed is {allowed}")


def spelt(where: Where) -> str:
    """Return where a value stands, as messages have it."""
    steps = []
    while not isinstance(where, str):
        where, step = where
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return (where + "".join(reversed(steps))).removeprefix(".")


def name(value: Any, where: Where) -> None:
    """Check a text that becomes part of a table."""
    if not is_name(value):
        refuse(value, where, f"text of 1 to {LONGEST_NAME} characters, none of them a control")


def label(value: Any, where: Where) -> None:
    """Check a name that may be empty, as where a machine does not tell its own."""
    if value != "":
        name(value, where)


def text(value: Any, where: Where) -> None:
    """Check a text of any characters."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        refuse(value, where, f"text of at most {LONGEST_TEXT} characters")


def sha256(value: Any, where: Where) -> None:
    """Check a digest in hexadecimal digits; it becomes part of a file's name."""
    if not is_sha256(value):
        refuse(value, where, "a sha256")


def number(value: Any, where: Where) -> None:
    """Check a number from 0 on; JSON was read without infinite ones."""
    if type(value) not in NUMBERS or not 0 <= value < LARGEST:
        refuse(value, where, "a number from 0 on")


def real(value: Any, where: Where) -> None:
    """Check a number."""
    if type(value) not in NUMBERS or not -LARGEST < value < LARGEST:
        refuse(value, where, "a number")


def whole(value: Any, where: Where) -> None:
    """Check a whole number from 0 on."""
    if type(value) is not int or not 0 <= value < LARGEST:
        refuse(value, where, "a whole number from 0 on")


def positive(value: Any, where: Where) -> None:
    """Check a whole number from 1 on."""
    whole(value, where)
    if value == 0:
        refuse(value, where, "a whole number from 1 on")


def fraction(value: Any, where: Where) -> None:
    """Check a number from 0 to 1."""
    number(value, where)
    if value > 1:
        refuse(value, where, "a number from 0 to 1")


def flag(value: Any, where: Where) -> None:
    """Check a truth value."""
    if type(value) is not bool:
        refuse(value, where, "true or false")


def maybe(check: Check) -> Check:
    """Return a check that null passes, too."""
    return lambda value, where: None if value is None else check(value, where)


def each(check: Check, least: int = 0, most: int = MOST_ENTRIES) -> Check:
    """Return a check of all entries of a list."""

    def entries(value: Any, where: Where) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            refuse(value, where, f"a list of {least} to {most} entries")
        for index, entry in enumerate(value):
            check(entry, (where, index))

    return entries


def table(check: Check) -> Check:
    """Return a check of all values of an object, whose keys are names."""

    def entries(value: Any, where: Where) -> None:
        if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
            refuse(value, where, f"an object of at most {MOST_ENTRIES} entries")
        for key, entry in value.items():
            name(key, where)
            check(entry, (where, key))

    return entries


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check of an object's fields by name; others may stand beside them."""

    def named(value: Any, where: Where) -> None:
        if not isinstance(value, dict):
            refuse(value, where, "an object")
        for key, check in required.items():
            if key not in value:
                raise InputError(f"field '{spelt((where, key))}' is missing")
            check(value[key], (where, key))
        for key, check in (optional or {}).items():
            if key in value:
                check(value[key], (where, key))

    return named


def exactly(checks: Mapping[str, Check]) -> Check:
    """Return a check of an object that has these fields and no others."""

    def all_named(value: Any, where: Where) -> None:
        fields(checks)(value, where)
        if len(value) > len(checks):
            refuse(value, where, f"an object of {', '.join(checks)}")

    return all_named


TRIPLE = each(number, 3, 3)
"""A point of the loss: a step and two numbers."""
PAIR = each(number, 2, 2)


def gate(value: Any, where: Where) -> None:
    """Check a layer and how far its gates opened."""
    PAIR(value, where)
    whole(value[0], where)


def plain_values(value: Any, where: Where) -> None:
    """Check settings of any shape: names, numbers, lists and objects of these."""
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            refuse(value, where, "a finite number")
    elif kind is int:
        if not -LARGEST < value < LARGEST:
            refuse(value, where, "a number of less than 20 digits")
    elif kind is str:
        text(value, where)
    elif kind is list:
        PLAIN_LIST(value, where)
    elif kind is dict:
        PLAIN_OBJECT(value, where)


PLAIN_LIST, PLAIN_OBJECT = each(plain_values), table(plain_values)


def thresholds(value: Any, where: Where) -> None:
    """Check tIoUs: different ones, in (0, 1]."""
    each(fraction, 1, 100)(value, where)
    if len({f"{tiou:g}" for tiou in value}) < len(value) or 0 in value:
        refuse(value, where, "a list of different numbers in (0, 1]")


FIDELITY = fields({"temporal": fraction, "spatial": fraction})
ERRORS = fields({"detections": whole, **dict.fromkeys(KINDS, number)})
MISSED = fields({"instances": whole}, {"missed": maybe(fraction)})
DIAGNOSIS = fields(
    {
        "false_positives": each(ERRORS, MULTIPLES),
        "gain": fields(dict.fromkeys(KINDS[1:], real)),
        "false_negatives": fields({"all": MISSED, "length_seconds": table(MISSED)}),
    }
)
PARALLEL = exactly({"processes": positive, "sharded": flag})
EVERY = fields(
    {
        "id": name,
        "phase": maybe(name),
        "message": maybe(text),
        "model": name,
        "strategy": fields({"name": name}),
        "dataset": fields(
            {"name": label, "variant": label, "annotation_sha256": sha256},
            {
                "videos": table(whole),
                "instances": table(whole),
                "pictures_sha256": maybe(table(sha256)),
            },
        ),
        "protocol": fields(
            {"digest": name, "tiou": thresholds, "evaluation_subset": name},
            {
                **dict.fromkeys(("steps", "window_clips", "image_size", "batch_size"), positive),
                **dict.fromkeys(("backward", "precision"), name),
                "classifier": maybe(name),
                "classifier_top": positive,
            },
        ),
        "seed": whole,
        "weights": fields({"name": name, "sha256": maybe(sha256)}),
        "environment": fields(
            {},
            {
                **dict.fromkeys(("device", "device_type"), label),
                "commit": maybe(label),
                "processor": table(maybe(label)),
            },
        ),
    },
    {
        "parallel": PARALLEL,
        "forecast": maybe(fields({}, {"predicted_peak_bytes": maybe(positive)})),
    },
)
"""What is asked of every record."""
STAGE = fields({"stage": name, "fidelity": FIDELITY, "peak_allocated_bytes": whole})
FINISHED = fields(
    {
        "metrics": fields({"map": table(fraction), "map_average": fraction}),
        "memory": fields(
            {"peak_allocated_bytes": positive, "inference": fields({"peak_allocated_bytes": whole})},
            {"predicted_peak_bytes": maybe(positive), "kinds": table(whole), "stages": each(STAGE)},
        ),
        "cost": fields(
            {"seconds_per_step": maybe(number), "trainable_parameters": whole}, {"wall_seconds": number}
        ),
        "training": fields(
            {"loss": each(TRIPLE, 1)},
            {
                "schedule": each(fields({"first_step": whole, "fidelity": FIDELITY})),
                "learned": maybe(fields({}, {"gates": table(each(gate))})),
            },
        ),
    },
    {"diagnosis": maybe(DIAGNOSIS)},
)
"""What is asked of the records of runs that ended well, besides."""


def check_fields(record: Mapping[str, Any]) -> None:
    """Raise InputError that names the first field which a report could not use."""
    plain_values(record, "record")
    EVERY(record, "")
    if record["status"] != "ok":
        return
    FINISHED(record, "")
    for tiou in record["protocol"]["tiou"]:
        if f"{tiou:g}" not in record["metrics"]["map"]:
            raise InputError(f"field 'metrics.map.{tiou:g}' is missing")
    if record["training"].get("schedule") and "steps" not in record["protocol"]:
        raise InputError("field 'protocol.steps' is missing")
