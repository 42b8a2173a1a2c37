"""Mutated video files through inspection and both readers, in a process that may hang or crash."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated_bytes
from fuzz.sandbox import Findings

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


PLAYLISTS = (
    b"ffconcat version 1.0\nfile seeds/index_last.mp4\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nseeds/stream.ts\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period/></MPD>",
)
"""What FFmpeg would take for a list of other files or of addresses, whatever its name."""


def fuzz(folder: Path, count: int, seed: int, tick: Callable[[], object] = lambda: None) -> Findings:
    """What came of ``count`` files."""
    rng, found = random.Random(seed), Findings()
    sources = seeds(folder / "seeds")
    worker = None
    for number in range(count):
        source = rng.choice(sources)
        path = folder / f"file{source.suffix}"
        listed = rng.random() < 0.1
        path.write_bytes(rng.choice(PLAYLISTS) if listed else mutated_bytes(rng, source.read_bytes()))
        if worker is None or worker.poll() is not None:
            worker = _start()
        before = set(folder.parent.rglob("*"))
        started = time.monotonic()
        outcome = _ask(worker, path)
        found.slowest = max(found.slowest, time.monotonic() - started)
        if listed and "read" in outcome:
            outcome = "failed: a list of other files was read"
        if stray := set(folder.parent.rglob("*")) - before:
            found.strays += 1
            outcome = f"failed: wrote {sorted(stray)[0]}"
        kind = "playlist" if listed else source.suffix[1:]
        found.files[kind] += 1
        found.outcomes[f"{kind}, {outcome.partition(':')[0]}"] += 1
        if outcome.startswith("failed"):
            found.hangs += "takes longer" in outcome
            found.tracebacks += not ("takes longer" in outcome or "wrote" in outcome)
            kept = folder / "failures" / f"{number}-{source.name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(path.read_bytes())
            found.failures.append(f"{kept.name}: {outcome}")
        tick()
    if worker is not None:
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            stream.close()
    return found


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
    """Probe a file and read it with the proved reader and with PyAV: what came of it."""
    import numpy as np

    from bench.io.errors import InputError
    from datasets.video import frames as video
    from datasets.video.index import inspect
    from datasets.video.reader_choice import READER_VARIABLE

    outcomes, read = [], []
    for reader in ("auto", "pyav"):
        os.environ[READER_VARIABLE] = reader
        try:
            info = video.probe(path)
            times = np.linspace(-1, min(info.duration, 1e6) + 1, 40)
            frames = video.read_frames(path, times, size=16)
            assert frames.shape == (40, 16, 16, 3)
            outcomes.append("read")
            read.append(frames)
        except InputError as error:
            lines = str(error).splitlines()
            good = len(lines) == 1 and lines[0].startswith(f"{path}: ")
            outcomes.append("refused" if good else f"failed: message {str(error)[:200]!r}")
        except Exception as error:
            outcomes.append(f"failed: {type(error).__name__}: {str(error)[:200]}")
    if failed := [outcome for outcome in outcomes if outcome.startswith("failed")]:
        return failed[0]
    if len(read) == 2:
        expected = sequential(path, times)
        _, apart = np.unique(inspect(path).frame_indices(times), return_index=True)
        for name, frames in zip(("the proved reader", "PyAV's reader"), read, strict=True):
            wrong = [] if expected is None else strange(frames[apart], expected[apart])
            if len(wrong) > ALLOWED:
                count = f"{len(wrong)} of {len(apart)}"
                return f"failed: {name} gives {count} pictures of other times, first {wrong[0]}"
    return f"auto {outcomes[0]}, PyAV {outcomes[1]}"


ALLOWED = 4
"""Pictures of forty that decoders may conceal differently in a damaged file."""


def sequential(path: Path, times: Any) -> Any:
    """The pictures at the times, (40, 16, 16, 3), by decoding from the beginning: no index, no seek.

    None if the container gives no time to a picture, or gives times that do not ascend.
    """
    import av
    import numpy as np

    from datasets.video.container import open_video
    from datasets.video.frames import _resize
    from datasets.video.index import inspect

    index, starts, pictures, held = inspect(path), [], [], []
    with open_video(path) as container:
        stream = container.streams[index.stream]
        stream.codec_context.thread_count = 1  # threads conceal damage differently
        for packet in container.demux(stream):
            if packet.size == 0 and packet.pts is not None:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                # As the readers do: damaged VP8 shows what is left in the buffers of freed frames.
                held = [*held, frame][-2:]
                if frame.pts is None or container.format.name == "avi":
                    return None
                starts.append(frame.pts * float(stream.time_base))
                picture = index.orientation.apply(frame.to_ndarray(format="rgb24"))
                pictures.append(_resize(np.ascontiguousarray(picture)[None], (16, 16))[0])
    starts = np.array(starts)
    if index.discarded or len(starts) < 2 or not (np.diff(starts) > 0).all():
        return None
    late = 1e-3 / index.rate
    found = np.searchsorted(starts - index.offset, np.asarray(times) + late, side="right") - 1
    return np.stack(pictures)[np.clip(found, 0, len(starts) - 1)]


def strange(frames: Any, expected: Any) -> list[int]:
    """The numbers of the pictures that are not the expected ones: 24 grey levels apart on average."""
    import numpy as np

    distances = np.abs(frames.astype(int) - expected.astype(int)).mean((1, 2, 3))
    return [int(number) for number in np.flatnonzero(distances > 24)]


def main() -> int:
    """Answer requests until standard input closes."""
    from datasets.video import decord_reader

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
