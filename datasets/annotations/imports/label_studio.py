"""Exports of Label Studio (JSON and JSON-MIN): timeline labels of videos, and labels with times in seconds.

Source: labelstud.io/tags/timelinelabels and labelstud.io/guide/task_format. `timelinelabels` have `ranges`
of frame numbers, counted from 1, both ends included, at the rate of the Video tag (`frameRate`, 25 unless
set), which is not in the export: frames 3 to 5 are [2 / rate, 5 / rate] seconds. `labels` (audio) and
`timeserieslabels` have `start` and `end` in seconds.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from datasets.annotations.imports.database import MEDIA, Database, url_name

KIND = "label-studio"
FRAMES = "timelinelabels"
SECONDS = ("labels", "timeserieslabels")
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
MIN_FIELDS = {"annotation_id", "annotator", "lead_time"}
SOURCE = re.compile(r"<[^>]*\bsrc\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
"""The file in a HyperText value, as `<video src="a.mp4"/>`."""
PREFERRED = ("video", "video_url", "url", "audio")


def is_label_studio(top: Any) -> bool:
    return (
        isinstance(top, list)
        and bool(top)
        and all(
            isinstance(task, dict)
            and (isinstance(task.get("data"), dict) or bool(MIN_FIELDS & task.keys()) or _has_timeline(task))
            for task in top[:3]
        )
    )


def _has_timeline(task: Mapping[str, Any]) -> bool:
    lists = [value for value in task.values() if isinstance(value, list)]
    return any(isinstance(each, dict) and FRAMES in each for value in lists for each in value)


def read_label_studio(top: list[Any], database: Database) -> None:
    """Add a video for each task, with the segments of its annotation.

    Cancelled annotations are left out. Of several, the one marked as ground truth is read, else the last.
    A task without annotations is left out: it is not labelled, which is other than without instances.
    """
    skipped, controls, several, unlabelled = Counter[str](), list[str](), 0, 0
    for index, task in enumerate(top):
        where = f"[{index}]"
        if not isinstance(task, dict):
            database.fail(where, "an object is needed")
        data = task.get("data")
        data = data if isinstance(data, dict) else task
        subset = next((data[key] for key in ("subset", "split") if isinstance(data.get(key), str)), None)
        results, number = _results(task, database, where)
        if not number:
            unlabelled += 1
            continue
        name = _video(data, task.get("file_upload"), database, where)
        found = database.video(name, where, subset)
        several += number > 1
        for control, kind, value in results:
            segments = list(_segments(kind, value, name, database, where))
            if not segments:
                skipped[kind] += 1
                continue
            controls.append(control)
            if database.chosen(control):
                found += segments
    if unlabelled == len(top):
        database.fail("annotations", f"none of the {unlabelled} tasks has one, at least one is needed")
    if unlabelled:
        database.notes.append(f"{unlabelled} tasks without an annotation are left out: they are not labelled")
    database.check_tiers("controls", controls)
    if several:
        database.notes.append(
            f"{several} tasks have several annotations: the ground truth or the last one is read"
        )
    if skipped:
        shown = ", ".join(f"{count} {kind[:40]}" for kind, count in skipped.most_common(5))
        database.notes.append(f"results that are no segments are left out: {shown}")


def _results(
    task: Mapping[str, Any], database: Database, where: str
) -> tuple[list[tuple[str, str, Any]], int]:
    """Return (control, type, value) of a task's results, and the number of its annotations."""
    if not isinstance(task.get("data"), dict):  # JSON-MIN: a key for each control
        return [
            (control, next((kind for kind in (FRAMES, *SECONDS) if kind in value), "others"), value)
            for control, values in task.items()
            if isinstance(values, list)
            for value in values
            if isinstance(value, dict)
        ], 1
    annotations = task.get("annotations", task.get("completions", []))
    if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
        database.fail(f"{where}.annotations", "a list of objects is needed")
    valid = [each for each in annotations if not each.get("was_cancelled")]
    chosen = next((each for each in valid if each.get("ground_truth")), valid[-1] if valid else {})
    results = chosen.get("result", [])
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        database.fail(f"{where}.annotations.result", "a list of objects is needed")
    return [
        (str(each.get("from_name")), str(each.get("type")), each.get("value"))
        for each in results
        if each.get("type") != "relation"
    ], len(valid)


def _segments(kind: str, value: Any, name: str, database: Database, where: str) -> Iterator[dict[str, Any]]:
    labels = value.get(kind) if isinstance(value, dict) else None
    if not isinstance(labels, list):
        return
    if kind == FRAMES:
        ranges = value.get("ranges")
        if not isinstance(ranges, list) or not all(isinstance(each, dict) for each in ranges):
            database.fail(f"{where}.ranges", "a list of objects with start and end is needed")
        rate = database.rate(name)
        for each in ranges:
            start, end = (
                database.number(each.get(key), f"{where}.ranges.{key}", "a frame number")
                for key in ("start", "end")
            )
            for label in labels:
                yield {"segment": [(start - 1) / rate, end / rate], "label": label}
    elif kind in SECONDS and "text" not in value and "start" in value:  # text has offsets of characters
        start, end = (database.number(value.get(key), f"{where}.{key}") for key in ("start", "end"))
        for label in labels:
            yield {"segment": [start, end], "label": label}


def _video(data: Mapping[str, Any], upload: Any, database: Database, where: str) -> str:
    """Return the file name of a task's video, without the prefix that an upload gets."""
    texts = {key: _source(value) for key, value in data.items() if isinstance(value, str)}
    media = [key for key, value in texts.items() if MEDIA.search(url_name(value))]
    keys = [key for key in PREFERRED if key in texts] or media
    if not keys:
        database.fail(f"{where}.data", "no field has the name of a video's file")
    url = texts[keys[0]]
    if "local-files" in url:
        return parse_qs(urlsplit(url).query).get("d", [url])[0]
    name = url_name(url)
    uploaded = "/data/upload/" in url or (isinstance(upload, str) and name.endswith(upload))
    return UPLOAD_PREFIX.sub("", name.rpartition("/")[2]) if uploaded else name


def _source(text: str) -> str:
    found = SOURCE.search(text)
    return found[1] if found else text
