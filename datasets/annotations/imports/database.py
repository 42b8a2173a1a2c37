"""The `database` that an import builds, and what all imports share: options, video ids, subsets, numbers."""

import math
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

from bench.io.errors import InputError
from bench.io.text import format_value, printable
from datasets.annotations.files import SUFFIXES

DEFAULT_SUBSET = "all"
"""Subset of all videos if neither the file, its name nor the options give one."""
AUDIO_SUFFIXES = (".ogg", ".wav", ".mp3", ".m4a", ".flac")
MEDIA = re.compile(f"({'|'.join(map(re.escape, (*SUFFIXES, *AUDIO_SUFFIXES)))})$", re.IGNORECASE)
SUBSET_WORDS = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "testing",
    "testing": "testing",
}


@dataclass(frozen=True)
class ImportOptions:
    """What a file may lack."""

    fps: float | None = None
    """Frames per second of files whose times are frame numbers."""
    subset: str | None = None
    """Subset of the videos of files without subsets."""
    tiers: tuple[str, ...] = ()
    """Names of the ELAN tiers, VIA attributes or Label Studio controls to read; empty for all."""

    def unused(self, applied: Collection[str]) -> list[str]:
        """Return a line for each option that is given and not in `applied`."""
        reasons = {
            "fps": (self.fps, "no times are frame numbers"),
            "subset": (self.subset, "all videos have subsets of their own"),
            "tiers": (self.tiers, "there are no tiers, attributes or controls to choose"),
        }
        return [
            f"--{name} has no effect: {reason}"
            for name, (value, reason) in reasons.items()
            if value and name not in applied
        ]


class Database:
    """Collects the videos and instances of one file.

    `file` is its name for messages, `source` the path that the user gave. `subset` is that of videos without
    one (default: as the file's name says). `notes` are lines for the user: what was guessed, and what was
    left out. `applied` has the names of the options that had an effect. Errors are `InputError` of one line
    that names the file and the field.
    """

    def __init__(self, file: str, source: str, options: ImportOptions, subset: str | None = None) -> None:
        self.file = file
        self.source = source
        self.options = options
        self.videos: dict[str, Any] = {}
        self.notes: list[str] = []
        self.applied: set[str] = set()
        self._names: dict[str, str] = {}
        self._rates: dict[str, float] = {}
        self._own_rates: dict[float, None] = {}
        self._default = subset or subset_of_name(file)

    def fail(self, field: str, problem: str) -> NoReturn:
        raise InputError(printable(f"{self.file}: {field}: {problem}"))

    def video(
        self, name: Any, where: str, subset: str | None = None, duration: float | None = None
    ) -> list[dict[str, Any]]:
        """Return the annotations of a video, to be extended; `name` is its id, or the path of its file."""
        if not isinstance(name, str) or not name.strip():
            self.fail(where, f"got {format_value(name)}, a video's id or file name is needed")
        identifier = video_id(name)
        other = self._names.setdefault(identifier, name)
        if other != name and (is_path(name) or len({_suffix(other), _suffix(name), ""}) > 2):
            self.fail(where, f"{format_value(other)} and {format_value(name)} have one id")
        if not _suffix(other):
            self._names[identifier] = name
        if not subset and self.options.subset:
            self.applied.add("subset")
        chosen = subset or self.options.subset or self._default or DEFAULT_SUBSET
        entry = self.videos.setdefault(identifier, {"subset": chosen, "annotations": []})
        if entry["subset"] != chosen:
            self.fail(where, f"{format_value(identifier)} is in subset {entry['subset']!r} and {chosen!r}")
        if duration is not None and entry.setdefault("duration", duration) != duration:
            self.fail(where, f"{format_value(identifier)} lasts {entry['duration']:g} s and {duration:g} s")
        annotations: list[dict[str, Any]] = entry["annotations"]
        return annotations

    def number(self, value: Any, where: str, what: str = "a finite number of seconds") -> float:
        """Return a finite number, also from a string."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(where, f"got {format_value(value)}, {what} is needed")
        return number

    def rate(self, name: str, own: float | None = None) -> float:
        """Return the rate of a video's frame numbers: the file's `own`, else the option's."""
        given = self.options.fps
        if given is not None:
            self.applied.add("fps")
        if own is not None and given is not None and own != given:
            self._own_rates[own] = None
        rate = given if own is None else own
        if rate is None:
            raise InputError(
                f"{self.file}: its times are frame numbers and it has no rate: give it as "
                f"python -m bench.doctor {shlex.quote(self.source)} --convert OUT.json --fps RATE"
            )
        self.take_rate(name, rate)
        return rate

    def take_rate(self, name: str, rate: float) -> None:
        """Store a video's rate, so that it is compared with that of its file."""
        identifier = video_id(name)
        if (known := self._rates.setdefault(identifier, rate)) != rate:
            shown = f"{known:g} and {rate:g} frames per second"
            self.fail("fps", f"{format_value(identifier)} has {shown}, one rate is needed")

    def chosen(self, tier: str) -> bool:
        """Return whether a tier, attribute or control is to be read."""
        return not self.options.tiers or tier in self.options.tiers

    def check_tiers(self, kind: str, present: Iterable[str]) -> None:
        """Note the tiers that are read if there are several; fail for an option that names none of them."""
        names = list(dict.fromkeys(present))
        self.applied.add("tiers")
        shown = ", ".join(format_value(name) for name in names[:20]) or "none"
        for wanted in self.options.tiers:
            if wanted not in names:
                self.fail("--tiers", f"got {format_value(wanted)}, the {kind} are {shown}")
        if len(names) > 1 and not self.options.tiers:
            self.notes.append(f"instances of all {kind} are read: {shown} (--tiers chooses)")

    def finish(self) -> None:
        """Add the rates to the videos, note a subset that was guessed, and fail if no video was found."""
        if not self.videos:
            self.fail("videos", "none found, at least one is needed")
        for video, rate in self._rates.items():
            self.videos[video]["fps"] = rate
        if self._own_rates:
            own = ", ".join(f"{rate:g}" for rate in list(self._own_rates)[:5])
            self.notes.append(f"--fps {self.options.fps:g} is not used where the file has a rate: {own}")
        subsets = {entry["subset"] for entry in self.videos.values()}
        if self.options.subset is None and subsets == {self._default}:
            self.notes.append(f"the file's or folder's name gives the subset: {self._default}")
        elif self.options.subset is None and subsets == {DEFAULT_SUBSET}:
            self.notes.append(
                f"no subsets in the file: all videos are in {DEFAULT_SUBSET!r} "
                "(bench.doctor --convert OUT.json --subset NAME sets another)"
            )


def video_id(name: str) -> str:
    """Return the id of a video: the last part of its path without the suffix of a media file."""
    last = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    return MEDIA.sub("", last) or last


def _suffix(name: str) -> str:
    """Return the suffix of a media file, in lower case, or nothing."""
    found = MEDIA.search(name.strip())
    return found[0].lower() if found else ""


def is_path(name: str) -> bool:
    return "/" in name or "\\" in name


def url_name(url: str) -> str:
    """Return the path in a URL, decoded: `file:///C:/my%20videos/a.mp4` has `/C:/my videos/a.mp4`."""
    path = url.partition("://")[2] if "://" in url else url
    return unquote(path.partition("?")[0].partition("#")[0])


def subset_of_name(file: str) -> str | None:
    """Return the subset that a file's name contains as a word (`anet_anno_train.json`: training)."""
    words = re.split(r"[^a-z]+", file.lower())
    found = {SUBSET_WORDS[word] for word in words if word in SUBSET_WORDS}
    return found.pop() if len(found) == 1 else None
