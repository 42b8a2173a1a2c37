"""Mutated annotation and submission files through every reader: an answer or one line, and no other trace."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz.mutations import mutated_bytes, mutated_document
from fuzz.sandbox import Findings, sandbox

from bench.detection import average_recall, evaluate, read_ground_truth, read_submission, write_submission
from bench.detection.external_classifier import read_class_scores
from datasets.annotations.dataset import Instance, SegmentPolicy, Video
from datasets.annotations.reader import read_annotations
from datasets.cards.cards import Card, Variant
from datasets.cards.known import check_known
from datasets.checks import probing
from datasets.checks.checking import check_annotations
from datasets.checks.videos import check_videos

Tick = Callable[[], object]
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
SCORES = {"class": ["jump", "run"], "results": {"v_c": [0.25, 0.75], "b": [1, 0]}}
FACTS = {
    "frames": 250,
    "frames_per_second": 25.0,
    "duration": 10.0,
    "width": 64,
    "height": 64,
    "reader": "x",
    "variable_rate": False,
    "offset_seconds": 0.0,
    "rotation": 0,
    "mirrored": False,
    "repaired_times": 0,
    "clock_restarts": 0,
    "reader_reason": "",
    "seekable": True,
}
DOCUMENTS: dict[str, Any] = {
    "annotations": ACTIVITYNET,
    "submission": SUBMISSION,
    "numbered": NUMBERED,
    "scores": SCORES,
    "videos": ["@path@", FACTS],
}
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


JSON = ("annotations", "annotations", "submission", "submission", "numbered", "scores", "videos")
OTHERS = ("text", "table")


def fuzz(
    folder: Path, count: int, seed: int, kinds: Sequence[str] = (*JSON, *OTHERS), tick: Tick = lambda: None
) -> Findings:
    """What came of ``count`` files."""
    rng = random.Random(seed)
    with sandbox(folder) as box:
        for _ in range(count):
            path, kind = _write(rng, folder, kinds)
            for reader in READERS[kind]:
                box.read(kind, reader, path)
            box.found.files[kind] += 1
            tick()
    return box.found


def _write(rng: random.Random, folder: Path, kinds: Sequence[str]) -> tuple[Path, str]:
    kind = rng.choice(kinds)
    if kind in ("text", "table"):
        inner = folder / kind
        inner.mkdir(exist_ok=True)
        name = "run_val.txt" if kind == "text" else "info.csv"
        (inner / name).write_bytes(mutated_bytes(rng, TEXT if kind == "text" else TABLE))
        (inner / "durations.csv").write_text(DURATIONS if kind == "text" else "x\n")
        (inner / "annotations.json").write_text(json.dumps(_without_durations()))
        return (inner, kind) if kind == "text" else (inner / "annotations.json", kind)
    content = mutated_document(rng, DOCUMENTS[kind])
    if kind == "videos":  # a cache of JSON lines
        content = content.replace(b"\n", b" ") + b"\n"
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


def scores(path: Path) -> None:
    """Read a classifier's scores."""
    read_class_scores(path, ("c", "b"), ("jump", "run"))


def known_files(path: Path) -> None:
    """Read what a cache says of video files and check these by it."""
    video = path.parent / "none.mp4"
    path.write_bytes(path.read_bytes().replace(b"@path@", probing._identity(video, False).encode()))
    for facts in probing._read_cache(path).values():
        annotated = Video("a", "training", 10.0, (Instance(1.0, 2.0, "run"),), None, 25.0, 250)
        check_videos({"a": annotated}, {"a": facts}, CARD)


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
    "scores": (scores,),
    "videos": (known_files,),
}
