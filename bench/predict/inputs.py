"""The videos that ``bench.predict`` is given, and the names of their output files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.io.errors import InputError
from datasets.annotations.files import SUFFIXES, has_video_suffix, walk
from datasets.video.image_folder import IMAGE_SUFFIXES, is_image_folder


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

    Of a folder, all files with a suffix of videos are taken, at any depth, except those below ``out`` and in
    hidden folders. With ``fps``, a folder of images `img_00001.jpg` without video files in it or below is a
    video too: the given folder, else those below. Output files are in the same folders below ``out``. A
    file's name is that of the video without its suffix, or with it where two videos of a folder differ in
    nothing else. Raises InputError for a folder without a video, and for two videos with one output file.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path.resolve(), (path, out))
            continue
        videos, folders = _inside(path, out)
        if fps is not None and not videos and is_image_folder(path):
            found.setdefault(path.resolve(), (path, out))
            continue
        if fps is not None:
            videos += folders
        if not videos:
            images = "; its images are a video if --fps is given" if is_image_folder(path) else ""
            if folders and not images:
                images = "; the folders of images in it are videos if --fps is given"
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


def _inside(path: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """Return the video files below a folder, and the folders of images below it without such files.

    What is in ``out`` is left out, if that is below the folder.
    """
    names = list(walk(path))
    place = out.resolve()
    apart = path.resolve() in place.parents

    def wanted(each: Path) -> bool:
        return not apart or place not in (each.resolve(), *each.resolve().parents)

    videos = [each for name in names if has_video_suffix(name) and wanted(each := path / name)]
    parents = dict.fromkeys((path / name).parent for name in names if name.lower().endswith(IMAGE_SUFFIXES))
    above = {parent for video in videos for parent in video.parents}
    folders = [
        each
        for each in parents
        if each != path and each not in above and wanted(each) and is_image_folder(each)
    ]
    return videos, folders


def check_reader(todo: Sequence[Job], reader: str | None) -> None:
    """Raise InputError if a reader of video files is to read a folder of images."""
    folder = next((job.video for job in todo if job.video.is_dir()), None)
    if folder is not None and reader not in (None, "auto", "pyav"):
        raise InputError(f"{folder}: --reader {reader} reads no folders of images; --reader auto does")
