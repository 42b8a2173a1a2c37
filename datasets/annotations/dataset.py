"""What a data set is once its files are read: videos, their instances, and what reading mended."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.io.errors import InputError

ACTION = "action"
Policy = Literal["refuse", "drop", "keep"]
"""What becomes of a segment that is wrong: an error, left out and counted, or kept as it stands."""


@dataclass(frozen=True)
class SegmentPolicy:
    """How the three known faults of published ground truth are treated; part of a protocol variant.

    `empty`: the end is not after the start. A kept one is never found, so it lowers recall. `outside`: it
    begins or ends outside of its video. `duplicates`: same class, and both ends within a millisecond of an
    earlier instance's, which is what ActionFormer and OpenTAD remove.
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

    `frames_per_second` and `frames` are what the annotations say of the file, where they say anything.
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
    """How many segments reading changed, by reason."""

    clipped: int = 0
    """Ends cut back to the video's, less than half a second past it."""
    empty: int = 0
    outside: int = 0
    duplicates: int = 0
    ignored: int = 0
    """Left out because the card ignores their label."""


@dataclass(frozen=True)
class Dataset:
    """The videos of one annotation file, and where their files lie.

    `sha256` is that of the annotation file's bytes, of durations where they came from elsewhere, and of
    a known data set's variant and missing videos: one digest, one ground truth.
    `missing` lists videos that the user declared absent; the variant's name then says so. `repairs` counts
    what reading changed.
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

    @property
    def clipped(self) -> int:
        """How many ends were cut back to the video's."""
        return self.repairs.clipped

    @property
    def dropped(self) -> int:
        """How many wrong segments were left out."""
        return self.repairs.empty + self.repairs.outside + self.repairs.duplicates

    @property
    def subsets(self) -> tuple[str, ...]:
        """The names of the subsets that occur, sorted."""
        return tuple(sorted({video.subset for video in self.videos}))

    def subset(self, name: str) -> tuple[Video, ...]:
        """The videos of one subset, in the file's order; `InputError` lists the known subsets."""
        if name not in self.subsets:
            known = ", ".join(self.subsets)
            raise InputError(f"{self.path.name}: subset: got {name[:60]!r}, known are {known}")
        return tuple(video for video in self.videos if video.subset == name)

    def one_class(self) -> "Dataset":
        """The same instances, all of one class called `action`, as heads learn that do not classify."""
        videos = (
            replace(video, instances=tuple(replace(each, label=ACTION) for each in video.instances))
            for video in self.videos
        )
        return replace(self, classes=(ACTION,), videos=tuple(videos))

    def instance_count(self, name: str) -> int:
        """How many instances a subset holds."""
        return sum(len(video.instances) for video in self.subset(name))
