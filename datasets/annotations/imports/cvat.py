"""CVAT's XML 1.1: tracks ("for video"), and tags of frames ("for images"). Times are frame numbers.

Source: docs.cvat.ai, "XML annotation format", and CVAT's exporter. A track's shape is there from its frame
until the next one with `outside="1"`, or until its last frame. Frames are numbered from 0, in the video.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

from bench.io.text import format_value
from datasets.annotations.imports.database import Database

KIND = "cvat"
ROOT = "annotations"
STEP = re.compile(r"step\s*=\s*(\d{1,6})")
WHAT = "a frame number"


def read_cvat(root: Element, database: Database) -> None:
    """Add the videos of the file's tasks, with an instance for every run of frames of a track or a tag."""
    tasks = {task.findtext("id", "").strip(): task for task in root.iterfind("meta//task")}
    if not tasks:
        job = root.find("meta/job")
        tasks = {"": Element("task") if job is None else job}
    source = root.findtext("meta/source") if len(tasks) == 1 else None
    names = {key: _name(task, source, database) for key, task in tasks.items()}
    found = {key: database.video(names[key], "task", _subset(task)) for key, task in tasks.items()}
    runs: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for number, track in enumerate(root.iterfind("track")):
        key = (_task(track, tasks, database), track.get("label", ""), f"track {number}")
        runs[key] = list(_visible(track, f"track {track.get('id', number)}"[:60], tasks[key[0]], database))
    for image in root.iterfind("image"):
        frame = database.number(image.get("id"), "image.id", WHAT)
        task = _task(image, tasks, database)
        for tag in image.iterfind("tag"):
            runs.setdefault((task, tag.get("label", ""), "tag"), []).append(
                (frame, frame + _step(tasks[task]))
            )
    if shapes := sum(child.tag != "tag" for image in root.iterfind("image") for child in image):
        database.notes.append(f"{shapes} shapes of single images are left out: export tracks 'for video'")
    for (task, label, _), spans in runs.items():
        for start, end in _joined(spans):
            rate = database.rate(names[task])
            found[task].append({"segment": [start / rate, end / rate], "label": label})


def _task(element: Element, tasks: dict[str, Element], database: Database) -> str:
    """Return the id of an element's task; it is named where the file has several."""
    own = element.get("task_id", "")
    if own in tasks:
        return own
    if len(tasks) > 1:
        database.fail("task_id", f"got {format_value(own)}, the tasks are {', '.join(list(tasks)[:20])}")
    return next(iter(tasks))


def _name(task: Element, source: str | None, database: Database) -> str:
    """Return the name of a task's video. `source` is there until CVAT 2.2, which has it beside the task."""
    for each in (task.findtext("source"), source, task.findtext("name")):
        if text := (each or "").strip():
            return text.replace("\\", "/").rpartition("/")[2]
    database.notes.append("no video is named: its id is the annotation file's name")
    return PurePath(database.file).stem


def _subset(task: Element) -> str | None:
    """Return a task's subset; CVAT writes `default` for a task without one."""
    subset = (task.findtext("subset") or "").strip()
    return None if subset.lower() in ("", "default") else subset


def _step(task: Element) -> int:
    """Return the distance of the annotated frames in the video's frames."""
    found = STEP.search(task.findtext("frame_filter") or "")
    return max(1, int(found[1])) if found else 1


def _visible(track: Element, where: str, task: Element, database: Database) -> Iterator[tuple[float, float]]:
    """Return the runs of frames [first, end) in which a track's object is not outside."""
    shapes = sorted(
        (database.number(shape.get("frame"), f"{where}.frame", WHAT), shape.get("outside") == "1")
        for shape in track
        if shape.get("frame") is not None
    )
    begin: float | None = None
    for frame, outside in shapes:
        if outside and begin is not None:
            yield begin, frame
            begin = None
        elif not outside and begin is None:
            begin = frame
    if begin is not None:
        yield begin, shapes[-1][0] + _step(task)


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[Any, Any]]:
    """Return the runs in order of time; those that touch are one."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
