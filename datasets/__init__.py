"""Data sets: cards, annotations, video reading, clip sampling, and the embedded miniature.

A package of Hugging Face has the same import name. Nothing here needs it, and nothing that needs it can be
used beside this one.
"""

from pathlib import Path

from bench.io.errors import InputError
from datasets.annotations.dataset import Dataset, Instance, SegmentPolicy, Video
from datasets.annotations.entries import AnnotationRules
from datasets.annotations.reader import read_annotations, video_path
from datasets.cards.cards import Card, card_protocol, known_datasets, read_card
from datasets.cards.known import load_known
from datasets.miniature import MiniatureConfig, generate, read_pictures_sha256
from datasets.miniature.generate import Progress

__all__ = [
    "Card",
    "Dataset",
    "Instance",
    "SegmentPolicy",
    "Video",
    "card_protocol",
    "known_datasets",
    "load_dataset",
    "read_annotations",
    "read_card",
    "video_path",
]


def load_dataset(
    name_or_json: str | Path,
    data: Path | None = None,
    cache: Path | None = None,
    *,
    annotations: Path | None = None,
    config: MiniatureConfig | None = None,
    progress: Progress | None = None,
    workers: int = 2,
) -> Dataset:
    """The data set of a known name, or the one that an annotation file (`.json`, `.json.gz`) describes.

    A known name may end in a protocol variant, as in `thumos14:211`; `data` is then the folder of its videos
    and, unless `annotations` names them, of its annotations (`datasets.cards.known.load_known`).
    `miniature` is generated below `cache` unless it is there already; `config`, `progress` and `workers` are
    its generator's, and it takes no `data`. Its variant names the generator's version, the configuration and
    the pictures by their digests, so that runs on other pictures are other runs. For an annotation file,
    `data` is the folder of its videos.
    `InputError` for an unknown name, a `data` that has no use, and whatever is wrong with the files.
    """
    name = str(name_or_json)
    if name.endswith((".json", ".json.gz")):
        path = Path(name_or_json)
        stem = path.name.split(".")[0]
        _refuse(annotations, "annotations", "the data set is an annotation file already; leave it out")
        # Many data sets call the file the same; their folder then says which it is.
        return read_annotations(
            path, root=data, name=path.absolute().parent.name if stem == "annotations" else stem
        )
    card = read_card(name)
    if card.name != "miniature":
        return load_known(name, data, annotations)
    if ":" in name:
        raise InputError(f"data set: got {name[:60]!r}, the miniature has no variants")
    _refuse(data, "data", "but the miniature makes its own videos; leave it out")
    _refuse(annotations, "annotations", "but the miniature makes its own; leave it out")
    folder = generate(config, cache, progress, workers)
    return read_annotations(
        folder / "annotations.json",
        root=folder / "videos",
        name=card.name,
        variant=f"{folder.name}-{read_pictures_sha256(folder)[:8]}",
        rules=AnnotationRules(card.classes, card.excluded),
    )


def _refuse(path: Path | None, option: str, reason: str) -> None:
    if path is not None:
        raise InputError(f"{option}: got {path}, {reason}")
