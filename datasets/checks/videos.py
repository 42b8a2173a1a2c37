"""Check the video files of a data set: one implementation for the doctor and for runs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.entries import END_TOLERANCE_SECONDS
from datasets.annotations.files import VideoFolder
from datasets.cards.cards import Card
from datasets.checks.checking import Finding, Level, overlapping, repeated
from datasets.checks.probing import Facts, probe_folder

RATE_TOLERANCE = 0.01
LONG_SECONDS = 60.0
"""A shorter file is decoded from its first frame without a word."""
OFFSET_SECONDS = 0.1
"""Container times of the first frame that are not worth a word, in seconds."""


def check_used_videos(
    dataset: Dataset, subsets: Sequence[str], card: Card | None = None, cache: Path | None = None
) -> list[Finding]:
    """Return the findings of the doctor on the videos of some subsets, from the same functions.

    `cache` is the folder below which the facts of the files are cached.
    """
    videos = [video for video in dataset.videos if video.subset in subsets]
    files, findings = find_files(dataset.folder, videos)
    facts = probe_folder(files, dataset.root, cache, annotated_rates(videos))
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
        found.append(("warning", kind, f"{duration:.2f} s in the file, {annotated:.2f} s in the annotations"))
    # Instances past the annotated end were found before.
    late = [i for i in video.instances if duration + END_TOLERANCE_SECONDS < i.end <= annotated + 1]
    if late:
        text = f"{len(late)} instances end after the file's {duration:.2f} s, the last at {late[-1].end:g} s"
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
        level: Level = "error" if decoded < 0.99 * frames else "warning"
        found.append((level, "lost frames", f"{decoded} of {frames:.0f} frames can be decoded"))
    if facts["variable_rate"]:
        found.append(("warning", "variable rate", f"frames last unequally, {rate:.3f} a second on average"))
    if abs(facts["offset_seconds"]) > OFFSET_SECONDS:
        text = f"the first frame is at {facts['offset_seconds']:.3f} s; it is time 0 here"
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
