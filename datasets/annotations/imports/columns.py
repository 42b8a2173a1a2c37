"""Guess the columns of a table of segments from its header."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets.annotations.imports.times import seconds_of

UNITS = (
    ("hh_mm_ss_ms", "s"),
    ("ss_msec", "s"),
    ("milliseconds", "ms"),
    ("millisecond", "ms"),
    ("msec", "ms"),
    ("ms", "ms"),
    ("seconds", "s"),
    ("second", "s"),
    ("secs", "s"),
    ("sec", "s"),
    ("s", "s"),
    ("frame_number", "frames"),
    ("frame_index", "frames"),
    ("frame_nr", "frames"),
    ("frames", "frames"),
    ("frame", "frames"),
    *((word, "minutes") for word in ("minutes", "minute", "mins", "min", "m")),
    *((word, "hours") for word in ("hours", "hour", "hrs", "hr", "h")),
)
"""Words at the end of a name (at its start, for frames) that give its unit; the first that fits counts."""
READ_UNITS = ("s", "ms", "frames")
"""Units of columns that are read, in order of preference."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "video": (
        *("video", "video_id", "videoid", "vid", "video_name", "videoname", "video_file", "video_filename"),
        *(
            "video_path",
            "filename",
            "file_name",
            "file",
            "file_path",
            "filepath",
            "path",
            "media",
            "media_file",
        ),
        *("media_file_name", "media_file_path", "media_name", "youtube_id", "clip", "clip_id", "name", "id"),
    ),
    "start": (
        *("start", "start_time", "starttime", "time_start", "t_start", "start_timestamp", "timestamp_start"),
        *(
            "begin",
            "begin_time",
            "begintime",
            "from",
            "onset",
            "segment_start",
            "action_start",
            "t0",
            "first_frame",
        ),
    ),
    "end": (
        *("end", "end_time", "endtime", "time_end", "t_end", "end_timestamp", "timestamp_end", "stop"),
        *(
            "stop_time",
            "stop_timestamp",
            "finish",
            "to",
            "offset",
            "segment_end",
            "action_end",
            "t1",
            "last_frame",
        ),
    ),
    "label": (
        *("label", "labels", "class", "class_name", "classname", "label_name", "action", "action_label"),
        *("action_name", "action_class", "activity", "activity_label", "category", "event", "event_type"),
        *("behavior", "behaviour", "annotation", "tag", "value", "type", "verb"),
    ),
    "length": ("duration", "length"),
    "video_length": ("video_duration", "video_length", "media_duration"),
    "subset": ("subset", "split", "set", "partition", "data_split"),
    "fps": ("fps", "frame_rate", "framerate", "video_fps"),
}
"""Names of the columns, in order of preference, without unit."""
TIMED = ("start", "end", "length", "video_length")


@dataclass(frozen=True)
class Columns:
    """Indices of the columns by role, and the unit of the times: `s`, `ms` or `frames`.

    `parts` has the names of two columns that are parts of one time, such as `start_min` and `start_sec`.
    """

    index: Mapping[str, int]
    units: Mapping[str, str]
    parts: tuple[str, str] | None = None


def guess_columns(header: Sequence[str]) -> Columns | None:
    """Return the columns of a header; None if it lacks a video, a label, or a start with an end or length.

    Names are compared without case, spaces and units in brackets. Of times in several units, seconds are
    taken before milliseconds, and frames last. A start or end without a unit is in seconds; a length without
    one is in the unit of the start.
    """
    parsed = [_parse(name) for name in header]
    found: dict[str, list[tuple[str, int]]] = {role: [] for role in NAMES}
    for role, names in NAMES.items():
        for name in names:
            for index, (plain, stem, unit) in enumerate(parsed):
                timed = role in TIMED
                if plain == name or (timed and stem == name):
                    found[role].append((unit if timed else "", index))
    for unit in READ_UNITS:
        starts = [place for own, place in found["start"] if (own or "s") == unit]
        ends = [place for own, place in found["end"] if (own or "s") == unit]
        allowed = {unit, "s", "ms"}
        lengths = [(own or unit, place) for own, place in found["length"] if (own or unit) in allowed]
        if not starts or not (ends or lengths):
            continue
        places, units = {"start": starts[0]}, {"start": unit}
        if ends:
            places["end"], units["end"] = ends[0], unit
        if lengths:
            units["length"], places["length"] = lengths[0]
        for role in ("video", "label", "subset", "fps", "video_length"):
            free = [each for each in found[role] if each[1] not in places.values()]
            if role in TIMED:
                free = [(own or unit, place) for own, place in free if (own or unit) in allowed]
            if free:
                units[role], places[role] = free[0]
        if {"video", "label"} <= places.keys():
            return Columns(places, units, _parts(header, parsed, places))
    return None


def _parts(
    header: Sequence[str], parsed: Sequence[tuple[str, str, str]], places: Mapping[str, int]
) -> tuple[str, str] | None:
    """Return the names of a time's column and of one with the same stem in minutes or hours."""
    for role in TIMED:
        for index, (_, stem, unit) in enumerate(parsed):
            if role in places and stem == parsed[places[role]][1] and unit in ("minutes", "hours"):
                return header[index], header[places[role]]
    return None


def without_header(row: Sequence[str]) -> Columns | None:
    """Return the columns video, start, end, label if a first row has values in this order."""
    if len(row) < 4 or not row[0].strip() or not row[3].strip() or seconds_of(row[3]) is not None:
        return None
    if seconds_of(row[1]) is None or seconds_of(row[2]) is None:
        return None
    return Columns({"video": 0, "start": 1, "end": 2, "label": 3}, {"start": "s", "end": "s"})


def _parse(name: str) -> tuple[str, str, str]:
    """Return a name in lower case with underscores, the same without its unit, and the unit or ""."""
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip())
    plain = re.sub(r"[\W_]+", "_", name.lower()).strip("_")
    for word, unit in UNITS:
        if plain.endswith(f"_{word}"):
            return plain, plain.removesuffix(f"_{word}"), unit
        if unit == "frames" and plain.startswith(f"{word}_"):
            return plain, plain.removeprefix(f"{word}_"), unit
    return plain, plain, ""
