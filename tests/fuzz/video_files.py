"""Mutated video files through inspection and both readers, in a process that may hang or crash."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated_bytes

ROOT = Path(__file__).parents[2]
SECONDS = 90.0
REAL = ROOT.parent / "shared" / "data" / "videos"


def seeds(folder: Path) -> list[Path]:
    """Whole files of several containers and codecs, and the real ones where they lie beside the checkout."""
    from movies import write

    folder.mkdir(parents=True, exist_ok=True)
    made = [
        write(folder / "index_last.mp4"),
        write(folder / "index_first.mp4", movflags="faststart"),
        write(folder / "turned.mov", turn=90),
        write(folder / "uneven.mkv", milliseconds=[n * 100 + n % 3 * 20 for n in range(60)]),
        write(folder / "small.webm", codec="libvpx"),
        write(folder / "frames.avi"),
        write(folder / "stream.ts"),
        write(folder / "mpeg4.mp4", codec="mpeg4", size=(65, 49)),
    ]
    return made + (sorted(REAL.iterdir()) if REAL.is_dir() else [])


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How often each outcome came up in `count` files, and a line for every failure."""
    rng, outcomes, failures = random.Random(seed), Counter[str](), []
    sources = seeds(folder / "seeds")
    worker = None
    for number in range(count):
        source = rng.choice(sources)
        path = folder / f"file{source.suffix}"
        path.write_bytes(mutated_bytes(rng, source.read_bytes()))
        if worker is None or worker.poll() is not None:
            worker = _start()
        outcome = _ask(worker, path)
        outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("failed"):
            kept = folder / "failures" / f"{number}-{source.name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(path.read_bytes())
            failures.append(f"{kept}: {outcome}")
    if worker is not None:
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            stream.close()
    return outcomes, failures


def _start() -> Any:
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "datasets")))
    return subprocess.Popen(
        [sys.executable, "-m", "fuzz.video_files"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": folders},
        cwd=ROOT,
    )


def _ask(worker: Any, path: Path) -> str:
    worker.stdin.write(json.dumps(str(path)) + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if answer:
        return str(json.loads(answer))
    worker.wait()
    hung = worker.returncode == -signal.SIGALRM
    return f"failed: {f'takes longer than {SECONDS:g} s' if hung else f'crash {worker.returncode}'}"


def look(path: Path) -> str:
    """Probe a file and read it with both readers: what came of it."""
    import numpy as np

    from bench.errors import InputError
    from datasets import video

    outcomes = []
    for decord in (True, False):
        video.decord_installed = (lambda: True) if decord else (lambda: False)
        try:
            info = video.probe(path)
            times = np.linspace(-1, min(info.duration, 1e6) + 1, 40)
            frames = video.read_frames(path, times, size=16)
            assert frames.shape == (40, 16, 16, 3)
            outcomes.append("read")
        except InputError as error:
            lines = str(error).splitlines()
            good = len(lines) == 1 and lines[0].startswith(f"{path}: ")
            outcomes.append("refused" if good else f"failed: message {str(error)[:200]!r}")
        except Exception as error:
            outcomes.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if failed := [outcome for outcome in outcomes if outcome.startswith("failed")]:
        return failed[0]
    return f"decord {outcomes[0]}, PyAV {outcomes[1]}"


def main() -> int:
    """Answer requests until standard input closes."""
    from datasets import decord_reader

    # A file that decord hangs on costs this long; the fallback must still come within the alarm's time.
    decord_reader.SECONDS, decord_reader.SECONDS_PER_FRAME = 10.0, 0.0
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        outcome = look(Path(json.loads(line)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(outcome) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
