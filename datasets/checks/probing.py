"""Probe many video files in parallel, in processes that may hang or crash; interruptible."""

import functools
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_type_hints

from bench.io.cache_dir import default_cache_dir
from bench.io.errors import InputError
from bench.io.json_lines import Worker, module_command, worker_threads
from bench.io.reading import NO_WAITING, read_bytes
from datasets.video.frames import VideoInfo, readers_installed

SECONDS = 60.0
SECONDS_EVERY_FRAME = 1800.0
MAX_CACHE_BYTES = 2**26
"""Largest size of a cache: some hundred thousand videos."""
MAX_FACT = 1e15
WORKER = module_command("datasets.checks.probe_worker")

Facts = dict[str, Any]
"""A `VideoInfo` as JSON values, or `{"error": why}`."""


def facts_file(root: Path, cache: Path | None = None) -> Path:
    """Return the file of cached facts of the videos of a folder, below `cache` or the default folder."""
    digest = hashlib.sha256(str(root.absolute()).encode(errors="replace")).hexdigest()[:12]
    return (cache or default_cache_dir()) / "doctor" / f"{digest}.jsonl"


@dataclass(frozen=True)
class Probing:
    """How to probe files: `rates` has the frames per second of folders of images, by key.

    `seconds` is the time limit of a file.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    every_frame: bool = False
    seconds: float | None = None


def probe_folder(
    files: Mapping[str, Path], root: Path, cache: Path | None, rates: Mapping[str, float]
) -> dict[str, Facts]:
    """Return the facts of some files below a folder, with a progress bar; the doctor's cache of them is used.

    Without a cache that can be written, there is none.
    """
    known: Path | None = facts_file(root, cache)
    try:
        _create(known)
    except InputError:
        known = None
    # A process takes as long to start as a few small files to probe.
    workers = min(os.cpu_count() or 1, 1 + len(files) // 8)
    return probe_shown(files, known, workers, Probing(rates))


def probe_shown(
    files: Mapping[str, Path], cache: Path | None, workers: int, how: Probing
) -> dict[str, Facts]:
    """Return the facts of files as `probe_files` does, with a progress bar on a terminal."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=len(files), desc="opening videos", leave=False, disable=quiet) as bar:
        return probe_files(files, cache, workers, how, progress=lambda: bar.update())


def probe_files(
    files: Mapping[str, Path],
    cache: Path | None = None,
    workers: int = 2,
    how: Probing = Probing(),
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Facts]:
    """Return the facts of each file by its key in `files`; `progress` is called after each.

    A file that takes longer than the limit or crashes its process is reported as an error like any other.
    With `cache`, a file of JSON lines, facts of a file with the same path, size and modification time are
    read from there, and new facts are appended to it. Errors are not cached: a disk may have been slow once.
    """
    limit = how.seconds or (SECONDS_EVERY_FRAME if how.every_frame else SECONDS)
    known = _read_cache(cache)
    lock = threading.Lock()

    def one(item: tuple[str, Path], worker: Callable[[], Worker]) -> tuple[str, Facts]:
        key, path = item
        rate = how.rates.get(key) if path.is_dir() else None
        identity = f"{_identity(path, how.every_frame)}|{rate}"
        facts = known.get(identity)
        if facts is None:
            facts = _ask(worker(), path, limit, {"every_frame": how.every_frame, "rate": rate})
            if cache is not None and "error" not in facts:
                with lock, _appended(cache) as file:
                    file.write((json.dumps([identity, facts]) + "\n").encode())
        with lock:
            progress()
        return key, facts

    _create(cache)
    with worker_threads(max(1, workers), lambda: Worker(WORKER)) as (pool, worker):
        return dict(pool.map(lambda item: one(item, worker), files.items()))


def _create(cache: Path | None) -> None:
    """Create the cache if it does not exist; raise InputError if it cannot be written."""
    if cache is not None:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            _appended(cache).close()
        except OSError as error:
            raise InputError(f"{cache}: the cache cannot be written ({error.strerror})") from None


def _appended(path: Path) -> IO[bytes]:
    """Return the cache, opened for appending; OSError if it is a symbolic link, which is untrusted."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | NO_WAITING
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def _ask(worker: Worker, path: Path, seconds: float, how: Mapping[str, Any]) -> Facts:
    try:
        worker.send({"path": str(path.absolute()), "seconds": seconds, **how})
        return worker.receive()
    except TimeoutError:
        worker.close()
        return {"error": f"reading it takes longer than {seconds:g} s"}
    except (EOFError, OSError, ValueError):
        return {"error": f"reading it crashes the decoder (exit code {worker.end()})"}


def _identity(path: Path, every_frame: bool) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return f"{path.absolute()}|gone"
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|{every_frame}|{_readers()}"


@functools.cache
def _readers() -> str:
    """Return a digest of the readers: facts from other versions of them may differ."""
    digest = hashlib.sha256(readers_installed().encode())
    for source in sorted((Path(__file__).parents[1] / "video").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:8]


def _read_cache(path: Path | None) -> dict[str, Facts]:
    """Return the content of a cache; truncated lines of an interrupted write are skipped."""
    known: dict[str, Facts] = {}
    if path is None or not path.is_file():
        return known
    for line in read_bytes(path, MAX_CACHE_BYTES).decode(errors="replace").splitlines():
        try:
            identity, facts = json.loads(line)
            if isinstance(identity, str) and _usable(facts):
                known[identity] = facts
        except (ValueError, TypeError, RecursionError):
            continue
    return known


def _usable(facts: Any) -> bool:
    """Return whether facts from a cache have the fields that the checks need: the file is untrusted."""
    if not isinstance(facts, dict) or "error" in facts:
        return False
    kinds = get_type_hints(VideoInfo)
    for name, value in facts.items():
        kind = int if name == "decoded" else kinds.get(name)
        usual = type(value) is kind or (kind is float and type(value) is int)
        if not usual or (kind in (int, float) and not abs(value) < MAX_FACT):  # NaN too
            return False
    return kinds.keys() <= facts.keys() and facts["duration"] > 0 and facts["frames_per_second"] > 0
