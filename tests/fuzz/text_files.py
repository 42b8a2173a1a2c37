"""Mutated annotation and submission files through every reader: an answer or one line, and no other trace."""

import contextlib
import gzip
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated_bytes, mutated_document

from bench.detection import average_recall, evaluate, read_ground_truth, read_submission, write_submission
from bench.errors import InputError
from datasets.annotations import read_annotations
from datasets.cards import Card, Variant
from datasets.checking import check_annotations
from datasets.dataset import SegmentPolicy
from datasets.known import check_known

SECONDS = 10.0
SEGMENTS = [{"segment": [1.0, 2.5], "label": "run"}, {"segment": ["4", "6.25"], "label": "jump"}]
ACTIVITYNET = {
    "version": "1",
    "taxonomy": [],
    "database": {
        "a": {"subset": "training", "duration": 10.0, "fps": 25.0, "annotations": SEGMENTS},
        "b": {"subset": "testing", "duration": "12.5", "annotations": [], "file": "videos/b.mp4"},
        "v_c": {"subset": "testing", "duration": 30, "annotations": SEGMENTS[:1], "url": "x"},
    },
}
NUMBERED = {"a": {"subset": "training", "duration": 9.0, "actions": [[1, 1.0, 2.0], [2, 0.5, 3.0]]}}
SUBMISSION = {
    "version": "1",
    "external_data": {},
    "results": {"v_c": [{"segment": [1.0, 2.0], "label": "run", "score": 0.5}], "a": []},
}
TRUTH = {"database": {"v_c": {"subset": "testing", "annotations": SEGMENTS[:1]}}}
TEXT = b"video_validation_0000001  1.0 2.5\nvideo_validation_0000002 0.1 0.2\n"
TABLE = b"video,fps,count\na,25.0,250\nb,25,300\nv_c,30,900\n"
DURATIONS = "video,duration\nvideo_validation_0000001,9\nvideo_validation_0000002,5\n"
CARD = Card(
    name="fuzz",
    classes=("jump", "run"),
    subsets={"train": "training", "test": "testing"},
    tiou=(0.5,),
    licence="none",
    aliases={"train": "training", "validation": "training"},
    numbered=("run", "jump"),
    default_variant="1",
    variants=(Variant("1", "all", SegmentPolicy("drop", "keep", "drop")),),
)


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How often each outcome came up in `count` files, and a line for every failure."""
    rng, outcomes, failures = random.Random(seed), Counter[str](), []
    with _sandbox(folder, failures):
        for number in range(count):
            path, kind = _write(rng, folder)
            for reader in READERS[kind]:
                outcome = _outcome(reader, path)
                if outcome.startswith("failed"):
                    kept = folder / "failures" / f"{number}-{path.name}"
                    kept.parent.mkdir(exist_ok=True)
                    if path.is_file():
                        kept.write_bytes(path.read_bytes())
                    failures.append(f"{kept}: {reader.__name__}: {outcome}")
                outcomes[f"{kind}, {reader.__name__}: {outcome.partition(':')[0]}"] += 1
    return outcomes, failures


def _write(rng: random.Random, folder: Path) -> tuple[Path, str]:
    kind = rng.choice(["annotations", "annotations", "submission", "submission", "numbered", "text", "table"])
    if kind in ("text", "table"):
        inner = folder / kind
        inner.mkdir(exist_ok=True)
        name = "run_val.txt" if kind == "text" else "info.csv"
        (inner / name).write_bytes(mutated_bytes(rng, TEXT if kind == "text" else TABLE))
        (inner / "durations.csv").write_text(DURATIONS if kind == "text" else "x\n")
        (inner / "annotations.json").write_text(json.dumps(_without_durations()))
        return (inner, kind) if kind == "text" else (inner / "annotations.json", kind)
    document = {"annotations": ACTIVITYNET, "submission": SUBMISSION, "numbered": NUMBERED}[kind]
    content = mutated_document(rng, document)
    if rng.random() < 0.1:
        content = gzip.compress(content)
        if rng.random() < 0.5:
            content = mutated_bytes(rng, content)
        path = folder / "file.json.gz"
    else:
        path = folder / "file.json"
    path.write_bytes(content)
    return path, kind


def _without_durations() -> Any:
    document: Any = json.loads(json.dumps(ACTIVITYNET))
    for entry in document["database"].values():
        del entry["duration"]
    return document


def _outcome(reader: Callable[[Path], Any], path: Path) -> str:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader(path)
    except InputError as error:
        lines = str(error).splitlines()
        return (
            "refused" if len(lines) == 1 and len(lines[0]) < 1500 else f"failed: message {str(error)[:200]!r}"
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"failed: {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def own_data(path: Path) -> None:
    """Read as own data: every video of the file is there, and no file lies outside of the root."""
    dataset = read_annotations(path)
    if path.suffix == ".json" and "database" in (top := json.loads(path.read_bytes().decode("utf-8-sig"))):
        assert [video.id for video in dataset.videos] == list(top["database"]), "a video was dropped"
    root = dataset.root.resolve()
    for video in dataset.videos:
        for name in (video.id, video.file or "x"):
            assert (root / name).resolve().is_relative_to(root), f"{name!r} leads outside"


def known_data(path: Path) -> None:
    """Read by a card."""
    check_known(CARD, CARD.variant(), path)


def doctor(path: Path) -> None:
    """Find everything, alone and by a card."""
    check_annotations(path)
    check_annotations(path, CARD, CARD.variant())


def ground_truth(path: Path) -> None:
    """Read what an evaluation is made against."""
    read_ground_truth(path, "testing")


def submission(path: Path) -> None:
    """Read detections, evaluate them, and write them again: every one comes back."""
    found = read_submission(path)
    truth = _truth(path.parent)
    evaluate(truth, found, (0.5,))
    average_recall(truth, found, (0.5,))
    again = path.parent / "again.json"
    write_submission(again, found)
    assert len(read_submission(again)) == len(found), "a detection was dropped"


def _truth(folder: Path) -> Any:
    path = folder / "truth.json"
    if not path.exists():
        path.write_text(json.dumps(TRUTH))
    return read_ground_truth(path, "testing")


READERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "annotations": (own_data, known_data, doctor, ground_truth),
    "numbered": (own_data, known_data, doctor),
    "text": (own_data, known_data, doctor),
    "table": (own_data, known_data, doctor),
    "submission": (submission,),
}


@contextlib.contextmanager
def _sandbox(folder: Path, failures: list[str]) -> Iterator[None]:
    """Report all that is written, made or moved outside of a folder, and turn alarms into errors."""
    inside, active = os.path.realpath(folder), [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not active[0] or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.symlink"):
            return
        writes = event != "open" or (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        paths = arguments[:2] if event == "os.rename" else arguments[:1]
        for path in paths if writes else ():
            if isinstance(path, str | bytes | os.PathLike):
                real = os.path.realpath(os.fsdecode(path))
                if not real.startswith(inside) and "__pycache__" not in real:
                    failures.append(f"{event} outside of the folder: {real[:200]}")

    def overdue(number: int, frame: Any) -> None:
        raise TimeoutError(f"takes longer than {SECONDS:g} s")

    sys.addaudithook(watch)  # it cannot be taken away again, only told to be quiet
    before = signal.signal(signal.SIGALRM, overdue)
    try:
        yield
    finally:
        active[0] = False
        signal.signal(signal.SIGALRM, before)
