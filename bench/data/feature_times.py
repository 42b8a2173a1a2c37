"""Where features lie in a video, and checks of their files. Importing this module does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.config.protocol import Protocol
from bench.data.feature_files import check_finite, feature_path, read_features
from bench.io.errors import InputError
from bench.io.reading import read_json
from bench.io.text import printable
from datasets.annotations.dataset import Dataset, Video

DESCRIPTION = "features.json"
"""The file beside exported features that describes them."""
TOLERATED_SECONDS, TOLERATED_SHARE = 1.0, 0.01
"""Largest difference between a video's duration and what its features cover, besides a window and a stride.

Extractors leave out or pad up to a window at the end, and sound may last a second longer than the picture.
The frames of all 412 THUMOS-14 videos in windows of 16 at a stride of 4 cover their durations up to 0.22 s. A
wrong rate is an error of at least 4 % (24 for 25 frames per second), a wrong stride one of 20 %.
"""


@dataclasses.dataclass(frozen=True)
class FeatureTimes:
    """Where features lie in a video: feature i shows the frames i * stride to i * stride + window."""

    rate: float
    """Frames per second of the video."""
    window: float
    stride: float

    def covered(self, count: int) -> float:
        """Return the seconds that ``count`` features cover."""
        return ((count - 1) * self.stride + self.window) / self.rate

    def check(self, path: Path, count: int, duration: float) -> None:
        """Raise InputError with the numbers if ``count`` features do not cover a video's duration."""
        seconds = self.covered(count)
        tolerated = (self.window + self.stride) / self.rate + TOLERATED_SECONDS + TOLERATED_SHARE * duration
        if abs(seconds - duration) <= tolerated:
            return
        expected = max(1, 1 + int((duration * self.rate - self.window) / self.stride))
        raise InputError(
            f"{path}: {count} features cover {seconds:.1f} s (one every {self.stride:g} frames, "
            f"{self.window:g} frames each, {self.rate:g} frames per second), but the video lasts "
            f"{duration:.1f} s, for which {expected} are expected"
        )


def feature_times(video: Video, protocol: Protocol) -> FeatureTimes | None:
    """Return where a video's features lie; None where they are spread over the whole video.

    They are spread with "fixed" resampling and without ``clip_frames``. Raises InputError for a video without
    a rate in the annotations where the protocol takes it from there.
    """
    frames = protocol.clip_frames
    if frames is None:
        if protocol.resampling == "fixed":
            return None
        raise InputError(
            "protocol: field 'clip_frames' is none, with --model features the frames of a feature are needed "
            "(none is allowed with resampling=fixed, for features that are spread over the video)"
        )
    rate = protocol.frames_per_second
    if protocol.frame_rate == "video":
        if video.frames_per_second is None:
            raise InputError(
                f"{video.id}: no fps in the annotations or a table beside them, which frame_rate=video needs"
            )
        rate = video.frames_per_second
    steps = protocol.steps_per_clip or 1
    return FeatureTimes(rate, frames / steps, (protocol.clip_stride or frames) / steps)


@dataclasses.dataclass(frozen=True)
class Description:
    """The description beside exported features (``bench.features``)."""

    path: Path
    times: FeatureTimes | None
    """None for features that are spread over the whole video."""
    steps: Mapping[str, int]
    """For each video the number of steps that show it; later ones are padding."""
    origin: str
    """Model and weights of the features, for people."""

    def check(self, times: FeatureTimes | None) -> None:
        """Raise InputError with both values unless the features lie where the protocol says."""
        if times == self.times:
            return
        texts = [
            "are spread over the video"
            if each is None
            else f"have a window of {each.window:g} frames and a stride of {each.stride:g} at {each.rate:g}/s"
            for each in (self.times, times)
        ]
        raise InputError(f"{self.path}: the features {texts[0]}, by the protocol they {texts[1]}")


def read_description(folder: Path) -> Description | None:
    """Return the description of the features in a folder, or None if there is none; raise InputError."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    content = read_json(path, finite=True)
    try:
        values = content["times"]
        times = None if values is None else FeatureTimes(*(float(values[name]) for name in TIMES))
        steps = {str(name): int(count) for name, count in content["steps"].items()}
        weights = content["weights"]
        origin = f"{content['model']}, weights {weights['name']} ({(weights['sha256'] or 'no digest')[:12]})"
        return Description(path, times, steps, printable(origin, 200))
    except (TypeError, LookupError, AttributeError, ValueError):
        raise InputError(f"{path}: is no description of features by bench.features") from None


TIMES = tuple(field.name for field in dataclasses.fields(FeatureTimes))


@dataclasses.dataclass(frozen=True)
class CheckedFeatures:
    """A video's file of features that passed all checks."""

    path: Path
    count: int
    """Number of features T."""
    shown: int
    """Number of features that show the video; those after them are padding of an export."""
    times: FeatureTimes | None
    """None for features that are spread over the whole video."""


def checked_features(
    dataset: Dataset, video: Video, protocol: Protocol, description: Description | None
) -> CheckedFeatures:
    """Return a video's features after checks of shape, description and duration; raise InputError."""
    path = feature_path(dataset, video)
    count, width = read_features(path, video.id).shape
    if width != protocol.feature_width:
        swapped = " (T and D are swapped)" if count == protocol.feature_width else ""
        raise InputError(
            f"{path}: {count} features of {width} channels{swapped}, the protocol's feature_width is "
            f"{protocol.feature_width}"
        )
    times, shown = feature_times(video, protocol), count
    if description is not None:
        description.check(times)
        shown = description.steps.get(video.id, 0)
        if not 0 < shown <= count:
            raise InputError(f"{path}: {count} features, but {shown} by {DESCRIPTION} beside it")
    if times is not None:
        times.check(path, shown, video.duration)
    return CheckedFeatures(path, count, shown, times)


def check_features(dataset: Dataset, protocol: Protocol) -> None:
    """Check the files of both subsets before anything runs.

    Raises InputError for the first wrong file, with the number of wrong files if there are several.
    """
    wrong = list(wrong_files(dataset, protocol))
    if wrong:
        more = f"; {len(wrong)} such errors, bench.doctor --features lists them"
        raise InputError(wrong[0] + (more if len(wrong) > 1 else ""))


def wrong_files(dataset: Dataset, protocol: Protocol) -> Iterator[str]:
    """Yield what is wrong with the files of a run's two subsets."""
    description = read_description(dataset.root)
    used = {protocol.training_subset, protocol.evaluation_subset}
    for video in (each for each in dataset.videos if each.subset in used):
        try:
            found = checked_features(dataset, video, protocol, description)
            check_finite(found.path, video.id)
        except InputError as error:
            yield str(error)
