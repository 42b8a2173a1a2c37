"""Segments in formats that players and annotation tools open: SRT subtitles and ELAN's EAF.

Both contain the segments that the timeline shows, on the player's clock.
"""

from __future__ import annotations

import mimetypes
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from bench.predict.segments import Segment, select_for_display
from datasets.video.container import open_video
from datasets.video.frames import VideoInfo

TYPE = "action"
SCHEMA = "http://www.w3.org/2001/XMLSchema-instance"
DATE = "1970-01-01T00:00:00Z"
"""The schema requires a date; a constant one, so that the same input gives the same file."""
NO_TAGS = str.maketrans("<>{}", "‹›()")
"""Players interpret `<i>` and `{\\an8}`, also in SRT, which has no way to escape them."""
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def player_offset(video: Path, info: VideoInfo) -> float:
    """Return the seconds to add to a time of this project to get that of a player's clock.

    Here time 0 is the first frame; a player's clock begins with the container, so with the sound if that is
    earlier. MPEG streams begin at any time, which players take as 0.
    """
    if info.offset_seconds == 0:
        return 0.0
    with open_video(video) as container:
        streamed = container.format.name in ("mpegts", "mpeg")
        begin = (container.start_time or 0) / 1e6 if streamed else 0.0
    return round(info.offset_seconds - begin, 6)


def as_srt(segments: Sequence[Segment], offset: float) -> bytes:
    """Return SubRip subtitles: one for each segment, its label and score.

    Characters that players take for the beginning of a tag are replaced by similar ones.
    """
    cues = []
    for number, each in enumerate(_in_order(segments), start=1):
        start, end = _milliseconds(each, offset)
        text = f"{' '.join(each.label.split()).translate(NO_TAGS)} ({each.score:.2f})"
        cues.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(cues).encode("utf-8", "replace")


def as_eaf(segments: Sequence[Segment], offset: float, video: Path, folder: Path) -> bytes:
    """Return an ELAN document (EAF 3.0) in ``folder``: a tier for each label, whose values are the label.

    Annotations of a tier must not overlap: the segments that overlap one before go to a second tier.
    """
    document = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "talbench",
            "DATE": DATE,
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": SCHEMA,
            "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    header = ElementTree.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    relative = os.path.relpath(video.absolute(), folder.absolute()).replace(os.sep, "/")
    ElementTree.SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL=video.absolute().as_uri(),
        MIME_TYPE=mimetypes.guess_type(video.name)[0] or "unknown",
        RELATIVE_MEDIA_URL=quote(relative if relative.startswith("../") else f"./{relative}"),
    )
    order = ElementTree.SubElement(document, "TIME_ORDER")
    tiers = _tiers(segments, offset)
    moments = sorted({moment for tier in tiers.values() for _, *span in tier for moment in span})
    slots = {moment: f"ts{number}" for number, moment in enumerate(moments, start=1)}
    for moment, slot in slots.items():
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(moment))
    number = 0
    for name, tier in tiers.items():
        element = ElementTree.SubElement(document, "TIER", LINGUISTIC_TYPE_REF=TYPE, TIER_ID=name)
        for label, start, end in tier:
            number += 1
            annotation = ElementTree.SubElement(
                ElementTree.SubElement(element, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=slots[start],
                TIME_SLOT_REF2=slots[end],
            )
            ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = label
    ElementTree.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(number)
    ElementTree.SubElement(
        document,
        "LINGUISTIC_TYPE",
        GRAPHIC_REFERENCES="false",
        LINGUISTIC_TYPE_ID=TYPE,
        TIME_ALIGNABLE="true",
    )
    ElementTree.indent(document, "    ")
    return bytes(ElementTree.tostring(document, encoding="UTF-8", xml_declaration=True)) + b"\n"


def _tiers(segments: Sequence[Segment], offset: float) -> dict[str, list[tuple[str, int, int]]]:
    """Return label, start and end in milliseconds, in order of time, by tier; no two of a tier overlap."""
    tiers: dict[str, list[tuple[str, int, int]]] = {}
    for each in sorted(_in_order(segments), key=lambda each: (each.label, each.start)):
        label = NOT_XML.sub("\ufffd", each.label)
        start, end = _milliseconds(each, offset)
        number, name = 1, label
        while name in tiers and (tiers[name][-1][2] > start or tiers[name][-1][0] != label):
            number += 1
            name = f"{label} ({number})"
        tiers.setdefault(name, []).append((label, start, end))
    return tiers


def _in_order(segments: Sequence[Segment]) -> list[Segment]:
    return sorted(select_for_display(segments), key=lambda each: (each.start, each.end, each.label))


def _milliseconds(segment: Segment, offset: float) -> tuple[int, int]:
    start = max(0, round(1000 * (segment.start + offset)))
    return start, max(start + 1, round(1000 * (segment.end + offset)))


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"
