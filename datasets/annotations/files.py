"""Find the file of each video below a folder: one rule for the doctor, for runs and for known data sets."""

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.io.errors import InputError
from bench.io.text import format_value, printable
from datasets.video.image_folder import IMAGE_SUFFIXES, is_image_folder

SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".ts", ".m2ts", ".mts", ".3gp", ".ogv"),
)
"""Suffixes of video files, in any case."""
HDF5 = (".h5", ".hdf5")
FEATURE_SUFFIXES = (".npy", ".npz", ".pt", *HDF5)
"""Suffixes of files of features, in any case."""
PREFIX = "v_"
"""ActivityNet's prefix of file names."""
SAMPLE_BYTES = 2**16
NAMED = 5


@dataclass(frozen=True)
class VideoFolder:
    """The video files and folders of images below `root`, at any depth; listed once, on first use.

    `pattern` is the path of a video's file, with `{id}` for its id; its suffix may be missing. Names that
    begin with a dot are ignored. `suffixes` are those of the files.
    """

    root: Path
    pattern: str = "{id}"
    suffixes: tuple[str, ...] = SUFFIXES

    def find(self, video: str, file: str | None = None) -> Path | None:
        """Return the file of the video with an id, or None.

        With `file`, only a file of this path below the root, or below one of its folders, is accepted.
        Otherwise these names are tried in turn, in the root and in all folders below: the pattern, then the
        id; each as it is if it has a known suffix, with every known suffix, with `v_` before it, and without
        its own `v_`; at last a file of exactly this name without a known suffix. Several files of one name
        must have the same content; the one in the fewest folders, then the first by name, is returned.
        Without a file, a folder of numbered images of one of these names, without suffix, is found likewise.
        At last, where files of features are looked for, the only HDF5 file below the root is taken to hold
        all videos. Raises `InputError` that names the files if they differ.
        """
        if file is not None and (_is_file(self.root / file) or is_image_folder(self.root / file)):
            return self.root / file
        for names in [[file]] if file is not None else self._names(video):
            if found := self._chosen(video, self._matches(names)):
                return found
        stems = [self.pattern.replace("{id}", video), video, f"{PREFIX}{video}", video.removeprefix(PREFIX)]
        for stem in stems if file is None else [file]:
            if found := self._chosen(video, self._image_folders(stem)):
                return found
        return self._archive

    def missing(self, video: str, file: str | None = None) -> str:
        """Return the message for a video that has no file."""
        plain = self.pattern.replace("{id}", video)
        looked = format_value(file) if file is not None else f"{format_value(plain)}, with or without v_"
        suffixes = "" if file is not None else f" before it and {', '.join(self.suffixes)} after it"
        return f"{self.root}: no file for video {format_value(video)}: looked for {looked}{suffixes}"

    def _chosen(self, video: str, found: Sequence[str]) -> Path | None:
        """Return the first of the found paths, or None; raise `InputError` if their contents differ."""
        if len(found) > 1 and not _equal([self.root / name for name in found]):
            raise InputError(
                f"{self.root}: video {printable(video, 80)} has files that differ: {some(found)}; leave "
                "one, or name it in the entry's field file"
            )
        return self.root / found[0] if found else None

    def _names(self, video: str) -> Iterator[Sequence[str]]:
        """Yield groups of names of equal rank, in the order in which they are tried."""
        last = []
        for plain in dict.fromkeys((self.pattern.replace("{id}", video), video)):
            folder, slash, name = plain.rpartition("/")
            for stem in dict.fromkeys((name, f"{PREFIX}{name}", name.removeprefix(PREFIX))):
                if _suffix(stem) in self.suffixes:
                    yield [f"{folder}{slash}{stem}"]
                yield [f"{folder}{slash}{stem}{suffix}" for suffix in self.suffixes]
            last.append(plain)
        yield last

    def _matches(self, names: Iterable[str]) -> list[str]:
        """Return the files with one of the names, relative to the root, in order of preference."""
        found = set()
        for name in names:
            wanted = self._lower_suffix(name)
            for path in self._listed[0].get(wanted.rpartition("/")[2], ()):
                if f"/{self._lower_suffix(path)}".endswith(f"/{wanted}") and _is_file(self.root / path):
                    found.add(path)
        return sorted(found, key=lambda path: (path.count("/"), path))

    def _image_folders(self, stem: str) -> list[str]:
        """Return the folders of images with a name, relative to the root, in order of preference."""
        listed = self._listed[1].get(stem.rpartition("/")[2], ())
        # The listing has only one of several links to a folder.
        found = {stem, *(path for path in listed if f"/{path}".endswith(f"/{stem}"))}
        usable = [path for path in found if is_image_folder(self.root / path)]
        return sorted(usable, key=lambda path: (path.count("/"), path))

    @functools.cached_property
    def _archive(self) -> Path | None:
        archives = [path for paths in self._listed[0].values() for path in paths if _suffix(path) in HDF5]
        return self.root / archives[0] if len(archives) == 1 and HDF5[0] in self.suffixes else None

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The files below the root by name, suffix in lower case, and the folders that hold images."""
        files: dict[str, list[str]] = {}
        folders: dict[str, dict[str, None]] = {}
        for path in walk(self.root):
            folder, _, name = path.rpartition("/")
            if name.lower().endswith(IMAGE_SUFFIXES):  # not listed: folders of frames hold millions
                folders.setdefault(folder.rpartition("/")[2], {})[folder] = None
            else:
                files.setdefault(self._lower_suffix(name), []).append(path)
        return files, {name: list(found) for name, found in folders.items()}

    def _lower_suffix(self, name: str) -> str:
        suffix = _suffix(name)
        return name[: -len(suffix)] + suffix if suffix in self.suffixes else name


def walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, with / between; links are followed."""
    seen: set[tuple[int, int]] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        try:
            status = os.stat(folder)
        except OSError:
            names.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            names.clear()  # a symbolic link to a parent folder
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        relative = "" if folder == str(root) else Path(os.path.relpath(folder, root)).as_posix() + "/"
        yield from (f"{relative}{name}" for name in sorted(files) if not name.startswith("."))


def has_video_suffix(name: str) -> bool:
    """Return whether a name ends in a suffix of video files."""
    return _suffix(name) in SUFFIXES


def some(names: Sequence[str]) -> str:
    """Return the first few names, for a one-line message."""
    first = ", ".join(name[:80] if name.isprintable() else format_value(name) for name in names[:NAMED])
    return first + (", ..." if len(names) > NAMED else "")


def _suffix(name: str) -> str:
    """Return the suffix of a name in lower case."""
    return os.path.splitext(name)[1].lower()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # a name that is too long for this file system, or a link to itself


def _equal(paths: Sequence[Path]) -> bool:
    """Return whether files have the same size, and the same bytes at their start, middle and end.

    Folders are equal if the names and sizes of their files are.
    """
    if all(path.samefile(paths[0]) for path in paths[1:]):
        return True
    if paths[0].is_dir():
        first, *others = ({each.name: each.stat().st_size for each in path.iterdir()} for path in paths)
        return all(sizes == first for sizes in others)
    sample = content_sample(paths[0])
    return all(path.samefile(paths[0]) or content_sample(path) == sample for path in paths[1:])


def content_sample(path: Path) -> tuple[int, bytes, bytes, bytes]:
    """Return the size of a file, and the bytes at its start, middle and end; OSError if unreadable."""
    size = path.stat().st_size
    parts = []
    with path.open("rb") as file:
        for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            file.seek(start)
            parts.append(file.read(SAMPLE_BYTES))
    return size, parts[0], parts[1], parts[2]
