"""The videos that ``bench.predict`` is given, and the names of their output files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.io.errors import InputError
from datasets.annotations.files import SUFFIXES, has_video_suffix, walk
from datasets.video.image_folder import is_image_folder


class Job(NamedTuple):
    """A video, the folder of its output files, and their name without suffix."""

    video: Path
    folder: Path
    name: str

    def output(self, suffix: str) -> Path:
        """Return the path of an output file."""
        return self.folder / f"{self.name}.{suffix}"


def jobs(given: Sequence[Path], out: Path, fps: float | None = None) -> list[Job]:
    """Return the videos of files and folders, each once, with their output files below ``out``.

    With ``fps``, a folder that holds images `img_00001.jpg` is a video. Of another folder, all files with a
    suffix of videos are taken, at any depth, except those below ``out`` and in
    hidden folders; their output files are in the same folders below ``out``. A file's name is that of the
    video without its suffix, or with it where two videos of a folder differ in nothing else. Raises
    InputError for a folder without a video, and for two videos with the same output file.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in given:
        if not path.is_dir() or (fps is not None and is_image_folder(path)):
            found.setdefault(path.resolve(), (path, out))
            continue
        names = [name for name in walk(path) if has_video_suffix(name)]
        apart = out.resolve() != path.resolve()
        videos = [path / name for name in names]
        if apart:
            videos = [video for video in videos if out.resolve() not in video.resolve().parents]
        if not videos:
            images = "; its images are a video if --fps is given" if is_image_folder(path) else ""
            raise InputError(f"{path}: the folder holds no video; looked for {', '.join(SUFFIXES)}{images}")
        for video in videos:
            found.setdefault(video.resolve(), (video, out / video.relative_to(path).parent))
    plain = Counter((folder, video.stem.casefold()) for video, folder in found.values())
    result = [
        Job(video, folder, video.stem if plain[folder, video.stem.casefold()] == 1 else video.name)
        for video, folder in found.values()
    ]
    first: dict[tuple[Path, str], Job] = {}
    for job in result:
        other = first.setdefault((job.folder, job.name.casefold()), job)
        if other is not job:
            raise InputError(
                f"{other.video} and {job.video}: both would be written to {job.output('json')}; predict them "
                "with different --out"
            )
    return result
