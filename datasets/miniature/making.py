"""Make a data set's folder in the cache, atomically and once, with worker processes that write its videos."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.io.cache_dir import default_cache_dir
from bench.io.errors import InputError
from bench.io.json_lines import Worker, worker_threads
from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.text import format_value, is_sha256
from datasets.annotations.entries import unsafe_name
from datasets.miniature.writing import file_name

Progress = Callable[[int, int], None]
"""Called after each video with the number of completed videos and the total."""
Videos = list[tuple[str, int]]
"""Subset and index of each video."""

PICTURES = "pictures.json"
_THREAD_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Content:
    """The content to generate in the folder `name`: videos, and text files by name."""

    name: str
    videos: Videos
    texts: dict[str, Callable[[], str]]
    write: Callable[[Path, str, int], str]
    """Writes one video into a folder by subset and index; returns the SHA-256 of its pictures."""
    worker: tuple[str, ...]
    """Command of a process that does the same for requests; they are `job`, folder, subset and index."""
    job: dict[str, Any]
    shipped_sha256: str | None
    """Digest of the pictures that shipped results are based on; None for another configuration."""


@dataclass(frozen=True)
class SourceClip:
    """One trimmed clip of a source domain and its class."""

    path: Path
    subset: str
    label: str


def make_content(made: Content, cache_dir: Path | None, progress: Progress | None, workers: int) -> Path:
    """Return the folder of a content below the cache; it is generated unless it exists.

    `pictures.json` holds the SHA-256 of all videos' pictures, decoded after writing. If it differs from
    `shipped_sha256`, a line is printed on standard error. Several callers may do so concurrently: each works
    in its own folder, the first to finish renames its folder, and the others use that. Raises `InputError` if
    the cache cannot be written.
    """
    name = made.name
    if workers < 1:
        raise ValueError(f"workers is {workers}, at least 1 is needed")
    cache = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder = cache / name
    if folder.is_dir():
        return folder
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder}: is no folder; remove it, and it is made again")
    with _draft(cache, name) as draft:
        (draft / "videos").mkdir()
        for file, text in made.texts.items():
            (draft / file).write_text(text())
        digest = _render_all(made, draft / "videos", progress, workers)
        (draft / PICTURES).write_text(dump_json({"sha256": digest}))
        try:
            draft.rename(folder)
        except OSError:
            # Another process finished first; its result is the same.
            if not folder.is_dir():
                raise
    if made.shipped_sha256 not in (None, digest):
        print(
            f"{name}: the pictures made here differ from those of the shipped results "
            f"(sha256 {digest[:8]}, not {str(made.shipped_sha256)[:8]}); results on them are kept apart",
            file=sys.stderr,
        )
    return folder


def read_pictures_sha256(folder: Path) -> str:
    """Return the SHA-256 of all decoded pictures of a generated folder, computed when it was made."""
    path, remedy = folder / PICTURES, f"remove {folder}, and it is made again"
    try:
        content = read_json(path, MAX_RECORD_BYTES, finite=True)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    digest = content.get("sha256") if isinstance(content, dict) else None
    if not is_sha256(digest):
        raise InputError(f"{path}: field 'sha256': a SHA-256 is needed; {remedy}")
    return digest


def read_source(folder: Path) -> tuple[tuple[str, ...], tuple[SourceClip, ...]]:
    """Return the classes, sorted, and the clips of a folder that `generate_source` made.

    Raises `InputError` for invalid content: a cache is untrusted, others may write to it.
    """
    path = folder / "labels.json"
    labels = read_json(path, MAX_RECORD_BYTES, finite=True)
    try:
        clips = [(str(clip["file"]), str(clip["subset"]), str(clip["label"])) for clip in labels["clips"]]
        classes = tuple(map(str, labels["classes"]))
    except (KeyError, TypeError):
        raise InputError(f"{path}: allowed are classes, and clips with file, subset and label") from None
    for file, _, _ in clips:
        if problem := unsafe_name(file, allow_folders=False):
            raise InputError(f"{path}: file {format_value(file)} {problem}")
    return classes, tuple(
        SourceClip(folder / "videos" / file, subset, label) for file, subset, label in clips
    )


def dump_json(value: dict[str, Any]) -> str:
    """Return the text of a generated JSON file."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


@contextmanager
def _draft(cache: Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder beside the final one; it is removed at the end unless it was renamed."""
    draft = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        draft.chmod(0o755)
        yield draft
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(
            f"{cache}: the cache cannot be written: {reason}; name another in TALBENCH_CACHE"
        ) from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _render_all(made: Content, folder: Path, progress: Progress | None, workers: int) -> str:
    """Return the SHA-256 of sorted lines, one per video: file name and SHA-256 of its pictures."""
    lines, videos = set[str](), made.videos
    for line in _written(made, folder, min(workers, len(videos))):
        lines.add(line + "\n")
        if progress is not None:
            progress(len(lines), len(videos))
    assert len(lines) == len(videos)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _written(made: Content, folder: Path, workers: int) -> Iterator[str]:
    """Yield a line after each video: its file name and its pictures' SHA-256."""
    if workers <= 1:
        for subset, index in made.videos:
            yield f"{file_name(subset, index)} {made.write(folder, subset, index)}"
        return
    job = {**made.job, "folder": str(folder)}

    def write(video: tuple[str, int], thread_worker: Callable[[], Worker]) -> str:
        (subset, index), worker = video, thread_worker()
        try:
            worker.send({**job, "subset": subset, "index": index})
            answer = worker.receive()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"a rendering process ended with code {worker.end()}") from None
        if "error" in answer:
            raise OSError(answer["error"])
        return f"{file_name(subset, index)} {answer['sha256']}"

    def start() -> Worker:
        return Worker(made.worker, environment=_THREAD_LIMITS, stderr=None)

    with worker_threads(workers, start) as (pool, thread_worker):
        for done in as_completed([pool.submit(write, video, thread_worker) for video in made.videos]):
            yield done.result()
