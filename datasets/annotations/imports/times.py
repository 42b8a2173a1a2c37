"""Times as people write them."""

import math
import re
from decimal import Decimal

SECONDS = re.compile(r"-?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:[.,]\d*)?)")
ALLOWED = "seconds, mm:ss or hh:mm:ss.ms"


def seconds_of(text: str) -> float | None:
    """Return the seconds in `12.5`, `1:02`, `0:01:02.5` or, with a decimal comma, `00:01:02,500`; else None.

    Two numbers are minutes and seconds. Numbers after the first must be below 60.
    """
    text = text.strip()
    if SECONDS.fullmatch(text):
        value = float(text.replace(",", "."))
        return value if math.isfinite(value) else None
    if (found := CLOCK.fullmatch(text)) is None or len(text) > 30:
        return None
    hours, minutes, seconds = found[1], int(found[2]), Decimal(found[3].replace(",", "."))
    if seconds >= 60 or (hours is not None and minutes >= 60):
        return None
    return float(3600 * int(hours or 0) + 60 * minutes + seconds)  # rounded once, as 62.08 is
