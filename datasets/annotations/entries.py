"""Check the values of an annotation file: convert an entry of its `database` to a `Video`.

Every error is an `InputError` of one line that names the file and the field.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import astuple, replace
from pathlib import PurePosixPath
from typing import Any, NoReturn

from bench.io.errors import InputError
from bench.io.text import MAX_NAME_LENGTH, format_value, has_control_chars
from datasets.annotations.dataset import Instance, Policy, Repairs, SegmentPolicy, Video
from datasets.annotations.formats import VideoFacts

END_TOLERANCE_SECONDS = 0.5
"""Tolerance for annotations past the end of the video: tools and containers differ by some frames."""
DUPLICATE_SECONDS = 1e-3


@dataclasses.dataclass(frozen=True)
class AnnotationRules:
    """Rules for reading an annotation file."""

    classes: Collection[str] | None = None
    """Allowed labels, any other is an error; None allows all labels that occur."""
    exclude: Collection[str] = ()
    """Ids of videos to leave out."""
    policy: SegmentPolicy = dataclasses.field(default_factory=SegmentPolicy)
    """Treatment of segments that are empty, outside their video, or duplicates."""
    ignored: Collection[str] = ()
    """Labels whose segments to leave out."""
    file_pattern: str = "{id}"
    """Path of a video's file below the root."""


class EntryReader:
    """Checks the entries of one file; `repairs` counts its changes."""

    def __init__(
        self,
        file: str,
        rules: AnnotationRules | None = None,
        facts: Mapping[str, VideoFacts] | None = None,
    ) -> None:
        rules = rules or AnnotationRules()
        self.file = file
        self.classes = None if rules.classes is None else frozenset(rules.classes)
        self.policy = rules.policy
        self.ignored = frozenset(rules.ignored)
        self.facts = facts or {}
        self.repairs = Repairs()

    def fail(self, field: str, problem: str) -> NoReturn:
        raise InputError(f"{self.file}: {field}: {problem}")

    def field(self, entry: Any, name: str, where: str) -> Any:
        if not isinstance(entry, dict):
            self.fail(where, f"got {format_value(entry)}, an object is needed")
        if name not in entry:
            self.fail(f"{where}.{name}", "missing")
        return entry[name]

    def database(self, database: Any) -> dict[str, Any]:
        if not isinstance(database, dict):
            self.fail("database", f"got {format_value(database)}, an object of videos is needed")
        return database

    def video(self, key: str, entry: Any) -> Video:
        """Return the checked video; its instances are sorted by time."""
        if problem := unsafe_name(key, allow_folders=False):
            self.fail("database", f"video id {format_value(key)} {problem}")
        where = f"database.{key}"
        subset = self.text(self.field(entry, "subset", where), f"{where}.subset")
        facts = self.facts.get(key)
        if not lacks_duration(entry):
            duration = self.positive(entry["duration"], f"{where}.duration")
        elif facts is not None:
            duration = facts.duration
        else:
            self.fail(f"{where}.duration", "missing, and no table beside the file and no video file has it")
        rate = facts.frames_per_second if facts else None
        if entry.get("fps") is not None:
            rate = self.positive(entry["fps"], f"{where}.fps", "of frames per second")
        annotations = self.field(entry, "annotations", where)
        if not isinstance(annotations, list):
            self.fail(f"{where}.annotations", f"got {format_value(annotations)}, a list is needed")
        found = [
            self.instance(item, duration, f"{where}.annotations[{index}]")
            for index, item in enumerate(annotations)
        ]
        instances = sorted((instance for instance in found if instance is not None), key=astuple)
        return Video(
            id=key,
            subset=subset,
            duration=duration,
            instances=tuple(self.unique(instances, f"{where}.annotations")),
            file=self.file_name(entry.get("file"), where),
            frames_per_second=rate,
            frames=facts.frames if facts else None,
        )

    def instance(self, item: Any, duration: float, where: str) -> Instance | None:
        segment = self.field(item, "segment", where)
        label = self.text(self.field(item, "label", where), f"{where}.label")
        if label in self.ignored:
            self.count("ignored")
            return None
        if self.classes is not None and label not in self.classes:
            known = ", ".join(sorted(self.classes)[:20]) + (", ..." if len(self.classes) > 20 else "")
            self.fail(f"{where}.label", f"got {format_value(label)}, allowed are {known}")
        where = f"{where}.segment"
        if not isinstance(segment, list) or len(segment) != 2:
            self.fail(where, f"got {format_value(segment)}, [start, end] in seconds is needed")
        start, end = (self.number(value, where) for value in segment)
        if not start < end:
            problem = f"start {start:g} s is not before end {end:g} s"
            # A segment that ends before it starts cannot be evaluated.
            treatment = "drop" if start > end and self.policy.empty == "keep" else self.policy.empty
            return self.apply_policy("empty", treatment, where, problem, Instance(start, end, label))
        if start < 0 or start >= duration or end > duration + END_TOLERANCE_SECONDS:
            problem = f"[{start:g}, {end:g}] is outside the video's [0, {duration:g}] s"
            kept = Instance(start, end, label)
            return self.apply_policy("outside", self.policy.outside, where, problem, kept)
        if end > duration and self.policy.outside != "keep":
            self.count("clipped")
            end = duration
        return Instance(start, end, label)

    def apply_policy(
        self, kind: str, treatment: Policy, where: str, problem: str, instance: Instance
    ) -> Instance | None:
        """Apply the policy to a wrong instance: raise an error, return None, or return the instance."""
        if treatment == "refuse":
            self.fail(where, problem)
        if treatment == "keep":
            return instance
        self.count(kind)
        return None

    def unique(self, instances: list[Instance], where: str) -> list[Instance]:
        """Return the instances, which are sorted by start, without duplicates if the policy drops them."""
        kept: list[Instance] = []
        for instance in instances:
            if is_duplicate(instance, kept):
                problem = f"{instance.label} from {instance.start:g} to {instance.end:g} s is there twice"
                if self.apply_policy("duplicates", self.policy.duplicates, where, problem, instance) is None:
                    continue
            kept.append(instance)
        return kept

    def count(self, kind: str) -> None:
        self.repairs = replace(self.repairs, **{kind: getattr(self.repairs, kind) + 1})

    def number(self, value: Any, where: str, unit: str = "of seconds") -> float:
        """Return a finite number, also from a string: some published files have seconds in quotes."""
        number = finite(value)
        if number is None:
            self.fail(where, f"got {format_value(value)}, a finite number {unit} is needed")
        return number

    def positive(self, value: Any, where: str, unit: str = "of seconds") -> float:
        number = self.number(value, where, unit)
        if number <= 0:
            self.fail(where, f"got {number:g}, more than 0 {'s ' if unit == 'of seconds' else ''}is needed")
        return number

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not value.strip():
            self.fail(where, f"got {format_value(value)}, a string that is not empty is needed")
        if has_control_chars(value):
            self.fail(where, f"got {format_value(value)}, a string without control characters is needed")
        if len(value) > MAX_NAME_LENGTH:
            self.fail(where, f"got {format_value(value)}, at most {MAX_NAME_LENGTH} characters are allowed")
        return value

    def file_name(self, value: Any, where: str) -> str | None:
        if value is None:
            return None
        name = self.text(value, f"{where}.file")
        if problem := unsafe_name(name, allow_folders=True):
            self.fail(f"{where}.file", f"{format_value(name)} {problem}")
        return name


def finite(value: Any) -> float | None:
    """Return a finite number or the one that a string holds, else None."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def lacks_duration(entry: Any) -> bool:
    """Return whether an entry has no duration, or null: it is then taken from another source."""
    return isinstance(entry, dict) and entry.get("duration") is None


def is_duplicate(instance: Instance, kept: list[Instance]) -> bool:
    """Return whether one of `kept`, sorted by start, has the instance's class and boundaries."""
    for other in reversed(kept):
        if instance.start - other.start > DUPLICATE_SECONDS:
            return False
        if other.label == instance.label and abs(other.end - instance.end) <= DUPLICATE_SECONDS:
            return True
    return False


def unsafe_name(name: str, allow_folders: bool) -> str | None:
    """Return why a name must not be used in a path, or None. Annotation files are untrusted."""
    parts = PurePosixPath(name).parts if allow_folders else (name,)
    if not name or name.isspace():
        return "is empty"
    if len(name) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if "\\" in name or any("/" in part for part in parts):
        return "must be relative, with / between" if allow_folders else "must not hold path separators"
    if ".." in name:
        return "must not hold '..'"
    if any(part.startswith(".") for part in parts):
        return "must not begin with a dot"
    if has_control_chars(name):
        return "must not hold control characters"
    return None
