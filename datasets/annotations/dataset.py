"""A data set after its files were read: videos, instances, and the repairs made while reading."""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.io.errors import InputError
from datasets.annotations.files import FEATURE_SUFFIXES, SUFFIXES, VideoFolder

ACTION = "action"
Policy = Literal["refuse", "drop", "keep"]
"""Treatment of a wrong segment: raise an error, leave it out and count it, or keep it unchanged."""


@dataclass(frozen=True)
class SegmentPolicy:
    """Treatment of the three known faults of published ground truth; part of a protocol variant.

    `empty`: the end is not after the start. If kept, it is never detected, so it lowers recall. `outside`: it
    begins or ends outside of its video. `duplicates`: same class, and both boundaries within a millisecond of
    an earlier instance's; ActionFormer and OpenTAD remove these.
    """

    empty: Policy = "refuse"
    outside: Policy = "refuse"
    duplicates: Policy = "keep"


@dataclass(frozen=True)
class Instance:
    """One action: from `start` to `end`, in seconds, of the class `label`."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Video:
    """One video and its instances in order of time; `file` is its path below the data set's root if given.

    `frames_per_second` and `frames` are those in the annotations, if given.
    """

    id: str
    subset: str
    duration: float
    instances: tuple[Instance, ...]
    file: str | None = None
    frames_per_second: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Repairs:
    """Numbers of segments that reading changed or left out, by reason."""

    clipped: int = 0
    """Segments clipped to the video's end, which they exceeded by less than half a second."""
    empty: int = 0
    outside: int = 0
    duplicates: int = 0
    ignored: int = 0
    """Segments left out because the card ignores their label."""


@dataclass(frozen=True)
class Dataset:
    """The videos of one annotation file, and the location of their files.

    `sha256` covers the annotation file's bytes, durations from other sources, and a known data set's variant
    and missing videos: it identifies the ground truth. With `features`, the files below the root hold
    features of the videos. `missing` lists videos that the user declared absent;
    the variant's name then contains their number. `repairs` counts the changes made while reading, and
    `notes` are lines on what was guessed in the file of an annotation tool.
    """

    name: str
    variant: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    sha256: str
    path: Path
    root: Path
    file_pattern: str = "{id}"
    repairs: Repairs = field(default_factory=Repairs)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    features: bool = False

    @functools.cached_property
    def folder(self) -> VideoFolder:
        """The files below the root, listed once."""
        suffixes = FEATURE_SUFFIXES if self.features else SUFFIXES
        return VideoFolder(self.root, self.file_pattern, suffixes)

    @property
    def clipped(self) -> int:
        """Number of segments that were clipped to the video's end."""
        return self.repairs.clipped

    @property
    def dropped(self) -> int:
        """Number of wrong segments that were left out."""
        return self.repairs.empty + self.repairs.outside + self.repairs.duplicates

    @property
    def subsets(self) -> tuple[str, ...]:
        """The sorted names of the subsets that occur."""
        return tuple(sorted({video.subset for video in self.videos}))

    def subset(self, name: str) -> tuple[Video, ...]:
        """Return the videos of one subset, in the file's order; `InputError` lists the known subsets."""
        if name not in self.subsets:
            known = ", ".join(self.subsets)
            raise InputError(f"{self.path.name}: subset: got {name[:60]!r}, known are {known}")
        return tuple(video for video in self.videos if video.subset == name)

    def one_class(self) -> "Dataset":
        """Return the same data set with a single class `action`, for class-agnostic heads."""
        videos = (
            replace(video, instances=tuple(replace(each, label=ACTION) for each in video.instances))
            for video in self.videos
        )
        return replace(self, classes=(ACTION,), videos=tuple(videos))

    def instance_count(self, name: str) -> int:
        """Return the number of instances of a subset."""
        return sum(len(video.instances) for video in self.subset(name))
