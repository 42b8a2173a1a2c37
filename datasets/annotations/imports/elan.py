"""Annotation files of ELAN (`.eaf`).

Source: "ELAN Annotation Format" (EAF 3.0, mpi.nl/tools/elan). Times are milliseconds in `TIME_SLOT`s. Slots
without a value are spread evenly between their neighbours in the tier, as ELAN shows them. A
`REF_ANNOTATION` has the times of the annotation that it refers to. `TIME_ORIGIN` of a media file is added:
it is the media's time at which the annotations' time begins.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

from bench.io.text import format_value
from datasets.annotations.imports.database import Database, url_name

KIND = "elan"
ROOT = "ANNOTATION_DOCUMENT"
LEVELS = 64
"""Steps from a reference to the annotation with times."""


def read_elan(root: Element, database: Database) -> None:
    """Add the video with the annotations of the chosen tiers.

    The label is the annotation's value or, where that is empty, the tier's name.
    """
    header = root.find("HEADER")
    if header is not None and header.get("TIME_UNITS", "milliseconds") != "milliseconds":
        database.fail(
            "HEADER.TIME_UNITS", f"got {format_value(header.get('TIME_UNITS'))}, milliseconds needed"
        )
    name, origin = _media(root, database)
    found = database.video(name, "HEADER.MEDIA_DESCRIPTOR")
    spans, references = _spans(root, database)
    tiers = [(tier.get("TIER_ID", ""), tier) for tier in root.iter("TIER")]
    database.check_tiers("tiers", [each for each, tier in tiers if tier.find("ANNOTATION") is not None])
    for tier_name, tier in tiers:
        if not database.chosen(tier_name):
            continue
        for annotation in tier.iterfind("ANNOTATION/*"):
            identifier = annotation.get("ANNOTATION_ID", "")
            where = f"{tier_name[:60]}.{identifier[:60]}"
            target = identifier
            for _ in range(LEVELS):
                if target in spans or target not in references:
                    break
                target = references[target]
            if target not in spans:
                database.fail(where, "refers to no annotation with times")
            start, end = ((time + origin) / 1000 for time in spans[target])
            label = (annotation.findtext("ANNOTATION_VALUE") or "").strip() or tier_name
            # A label is one line; a value may have several.
            found.append({"segment": [start, end], "label": " ".join(label.split())})


def _media(root: Element, database: Database) -> tuple[str, float]:
    """Return the name of the video file, else of the first media file, and its time origin."""
    media = [each for each in root.iter("MEDIA_DESCRIPTOR") if each.get("MEDIA_URL")]
    videos = [each for each in media if each.get("MIME_TYPE", "").startswith("video/")] or media
    if not videos:
        database.notes.append("no media file is named: the video's id is the annotation file's name")
        return PurePath(database.file).stem, 0.0
    if len(videos) > 1:
        names = ", ".join(format_value(url_name(each.get("MEDIA_URL", ""))) for each in videos[:5])
        database.notes.append(f"the first of several media files is taken: {names}")
    text = videos[0].get("TIME_ORIGIN") or "0"
    origin = database.number(text, "MEDIA_DESCRIPTOR.TIME_ORIGIN", "a number of milliseconds")
    return url_name(videos[0].get("MEDIA_URL", "")).replace("\\", "/").rpartition("/")[2], origin


def _spans(root: Element, database: Database) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return start and end of every aligned annotation by id, and the references of the others."""
    times: dict[str, float | None] = {}
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        value, name = slot.get("TIME_VALUE"), slot.get("TIME_SLOT_ID", "")
        what = "a number of milliseconds"
        times[name] = None if value is None else database.number(value, f"TIME_SLOT {name[:60]}", what)
    spans: dict[str, tuple[float, float]] = {}
    references: dict[str, str] = {}
    for tier in root.iter("TIER"):
        aligned = [
            (each.get("ANNOTATION_ID", ""), each.get("TIME_SLOT_REF1", ""), each.get("TIME_SLOT_REF2", ""))
            for each in tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION")
        ]
        known = _spread(aligned, times)
        for name, first, last in aligned:
            if known.get(first) is None or known.get(last) is None:
                database.fail(f"annotation {name[:60]}", "its time slots have no times")
            spans[name] = known[first], known[last]
        for each in tier.iterfind("ANNOTATION/REF_ANNOTATION"):
            references[each.get("ANNOTATION_ID", "")] = each.get("ANNOTATION_REF", "")
    return spans, references


def _spread(aligned: list[tuple[str, str, str]], times: Mapping[str, Any]) -> dict[str, float]:
    """Return the times of a tier's slots; those without a value lie evenly between their neighbours."""
    known = {slot: times[slot] for _, *slots in aligned for slot in slots if times.get(slot) is not None}
    following = {first: last for _, first, last in aligned if last not in known or first not in known}
    seen: set[str] = set()  # a slot that was passed has a time now, or never gets one
    for begin in [slot for slot in following if slot in known]:
        chain = [begin]
        while chain[-1] in following and chain[-1] not in seen:
            seen.add(chain[-1])
            chain.append(following[chain[-1]])
            if chain[-1] in known:
                break
        if len(chain) > 1 and chain[-1] in known:
            step = (known[chain[-1]] - known[begin]) / (len(chain) - 1)
            known |= {slot: known[begin] + step * index for index, slot in enumerate(chain[1:-1], start=1)}
    return known
