"""Check the video files of a data set: one implementation for the doctor and for runs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.text import format_value
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.entries import END_TOLERANCE_SECONDS
from datasets.annotations.files import VideoFolder, content_sample
from datasets.cards.cards import Card
from datasets.checks.checking import Finding, Level, overlapping, repeated
from datasets.checks.probing import Facts, probe_folder

RATE_TOLERANCE = 0.01
LONG_SECONDS = 60.0
"""A shorter file is decoded from its first frame without a word."""
OFFSET_SECONDS = 0.1
"""Container times of the first frame that are not worth a word, in seconds."""
FAR_SECONDS = 60.0
"""An annotated duration of this more than twice the file's is an error."""


def check_used_videos(
    dataset: Dataset, used: tuple[str, str], card: Card | None = None, cache: Path | None = None
) -> list[Finding]:
    """Return the findings of the doctor on the videos of a run's two subsets, from the same functions.

    `used` are the training and the evaluation subset. `cache` is the folder below which the facts of the
    files are cached.
    """
    videos = [video for video in dataset.videos if video.subset in used]
    files, findings = find_files(dataset.folder, videos)
    facts = probe_folder(files, dataset.root, cache, annotated_rates(videos))
    findings += check_same_files(files, videos, *used)
    findings += check_videos({video.id: video for video in videos if video.id in facts}, facts, card)
    if card is None:
        findings += [finding for video in videos for finding in repeated(video)]
        findings += overlapping([video.id for video in videos])
    return findings


def annotated_rates(videos: Sequence[Video]) -> dict[str, float]:
    """Return the frames per second that annotations give, by video."""
    return {video.id: video.frames_per_second for video in videos if video.frames_per_second}


def find_files(folder: VideoFolder, videos: Sequence[Video]) -> tuple[dict[str, Path], list[Finding]]:
    """Return the file of each video that has one, and an error for each that has none or several."""
    files, findings = {}, []
    for video in videos:
        try:
            found = folder.find(video.id, video.file)
        except InputError as error:
            findings.append(Finding("error", "two files", video.id, str(error)))
            continue
        if found is None:
            findings.append(Finding("error", "missing", video.id, "no file"))
        else:
            files[video.id] = found
    return files, findings


def check_same_files(
    files: Mapping[str, Path], videos: Sequence[Video], training: str, evaluation: str
) -> list[Finding]:
    """Return a finding for each video of the two subsets that is also an earlier one under another id.

    A link to a file is the same file: an error if one of the two is trained and the other evaluated on, else
    a warning. So is a copy that is trained and evaluated on, by size and samples of its content.
    """
    chosen = [each for each in videos if each.id in files and each.subset in (training, evaluation)]
    first: dict[tuple[int, int], Video] = {}
    by_size: dict[int, list[Video]] = {}
    findings = []

    def named(*both: Video) -> str:
        return " and ".join(f"{format_value(each.id)} ({each.subset})" for each in both)

    for video in chosen:
        try:
            status = files[video.id].stat()
        except OSError:
            continue  # probing says why
        other = first.setdefault((status.st_dev, status.st_ino), video)
        if other is not video:
            level: Level = "warning" if other.subset == video.subset else "error"
            why = "it counts twice" if level == "warning" else "its results say nothing about other videos"
            text = f"{named(other, video)} have the same file; {why}"
            findings.append(Finding(level, "same file", video.id, text))
        elif files[video.id].is_file():
            by_size.setdefault(status.st_size, []).append(video)
    for alike in by_size.values():
        if len({video.subset for video in alike}) > 1:
            findings += [
                Finding(
                    "warning", "copy", copy.id, f"the files of {named(video, copy)} have the same content"
                )
                for video, copy in _copies(alike, files)
            ]
    return findings


def _copies(videos: Sequence[Video], files: Mapping[str, Path]) -> Iterator[tuple[Video, Video]]:
    """Yield videos of equal size with the first one of the other subset whose file has the same content."""
    seen: dict[object, Video] = {}
    for video in videos:
        try:
            other = seen.setdefault(content_sample(files[video.id]), video)
        except OSError:
            continue
        if other.subset != video.subset:
            yield other, video


def check_videos(videos: Mapping[str, Video], facts: Mapping[str, Facts], card: Card | None) -> list[Finding]:
    """Return findings on video files, alone and compared with annotations and card."""
    return [
        Finding(level, kind, name, text)
        for name, video in videos.items()
        for level, kind, text in _file(video, facts[name], card)
    ]


def _file(video: Video, facts: Facts, card: Card | None) -> list[tuple[Level, str, str]]:
    if "error" in facts:
        return [("error", "undecodable", str(facts["error"]))]
    found: list[tuple[Level, str, str]] = []
    duration, rate, frames = (float(facts[key]) for key in ("duration", "frames_per_second", "frames"))
    annotated = video.duration
    if math.isfinite(annotated) and abs(duration - annotated) > max(1.0, 0.02 * annotated):
        kind = "shorter than annotated" if duration < annotated else "longer than annotated"
        # Such a duration is no inaccuracy; a run would reserve memory for all of it.
        level: Level = "error" if annotated > 2 * duration + FAR_SECONDS else "warning"
        found.append((level, kind, f"{duration:g} s in the file, {annotated:g} s in the annotations"))
    # Instances past the annotated end were found before.
    late = [i for i in video.instances if duration + END_TOLERANCE_SECONDS < i.end <= annotated + 1]
    if late:
        text = f"{len(late)} instances end after the file's {duration:g} s, the last at {late[-1].end:g} s"
        text += "; is it the file that was annotated?"
        found.append(("error", "instances after the end", text))
    if video.frames_per_second and abs(rate / video.frames_per_second - 1) > RATE_TOLERANCE:
        text = f"{rate:.3f} frames per second in the file, {video.frames_per_second:g} in the annotations"
        found.append(("warning", "rate unlike annotated", text))
    elif card and card.rates and all(abs(rate / own - 1) > RATE_TOLERANCE for own in card.rates):
        known = ", ".join(f"{rate:g}" for rate in card.rates)
        text = f"{rate:.3f} frames per second; the original files have {known}"
        found.append(("warning", "rate unlike card", text))
    if video.frames and abs(frames - video.frames) > max(2, 0.01 * video.frames):
        text = f"{frames:.0f} frames in the file, {video.frames} in the annotations' table"
        found.append(("warning", "frame count", text))
    decoded: Any = facts.get("decoded")
    if decoded is not None and decoded < frames:
        level = "error" if decoded < 0.99 * frames else "warning"
        found.append((level, "lost frames", f"{decoded} of {frames:.0f} frames can be decoded"))
    if facts["variable_rate"]:
        found.append(("warning", "variable rate", f"frames last unequally, {rate:.3f} a second on average"))
    if abs(facts["offset_seconds"]) > OFFSET_SECONDS:
        text = (
            f"the first frame is at {facts['offset_seconds']:.3f} s, which is time 0 here; times annotated in"
        )
        text += " a player that shows this time at the first frame are late by that: subtract it"
        found.append(("warning", "late first frame", text))
    if not facts["seekable"] and duration > LONG_SECONDS:
        text = "every read begins at the first frame; ffmpeg -i FILE -c:v libx264 -crf 18 OUT.mp4 is faster"
        found.append(("note", "slow to read", text))
    if facts["rotation"]:
        found.append(("note", "turned", f"shown turned by {facts['rotation']} degrees"))
    if facts["mirrored"]:
        found.append(("note", "mirrored", "its display matrix mirrors the pictures, which are shown so"))
    if restarts := facts["clock_restarts"]:
        text = f"its times begin anew in {restarts} places, as in joined files; the parts follow one another"
        found.append(("warning", "clock restarts", text))
    if repaired := facts["repaired_times"]:
        text = f"{repaired} packets have no usable time (missing, repeated, far off): moved or left out"
        found.append(("warning", "wrong times", text))
    return found
