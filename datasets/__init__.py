"""Data sets: cards, annotations, video reading, clip sampling, and the embedded, generated ones.

Hugging Face's `datasets` package has the same import name. This project does not need it, and software that
needs it cannot be used in the same environment.
"""

from dataclasses import replace
from pathlib import Path

from bench.io.errors import InputError
from datasets import miniature, synthetic
from datasets.annotations.dataset import Dataset, Instance, SegmentPolicy, Video
from datasets.annotations.entries import AnnotationRules
from datasets.annotations.reader import read_annotations, video_path
from datasets.cards.cards import (
    GENERATED,
    Card,
    card_protocol,
    is_annotation_path,
    known_datasets,
    read_card,
)
from datasets.cards.known import load_known
from datasets.miniature.making import Progress

__all__ = [
    "Card",
    "Dataset",
    "Instance",
    "SegmentPolicy",
    "Video",
    "card_protocol",
    "known_datasets",
    "load_dataset",
    "load_features",
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
    config: miniature.MiniatureConfig | synthetic.SyntheticConfig | None = None,
    progress: Progress | None = None,
    workers: int = 2,
) -> Dataset:
    """Return the data set of a known name, or of an annotation file or folder, given by its path.

    A known name may end in a protocol variant, as in `thumos14:211`; `data` is then the folder of its videos
    and, unless `annotations` is given, of its annotations (`datasets.cards.known.load_known`).
    `miniature` and `synthetic` are generated below `cache` unless they exist already; `config` (of the data
    set's own type), `progress` and `workers` are passed to the generator, and `data` is not allowed. Their
    variant contains the generator's version and the digests of configuration and pictures, so that runs on
    different pictures are different runs. For an
    annotation file, `data` is the folder of its videos. Durations that the annotations lack are read from the
    videos, and cached below `cache`.
    Raises `InputError` for an unknown name, an unused `data`, and errors in the files.
    """
    name = str(name_or_json)
    if is_annotation_path(name):
        path = Path(name_or_json)
        stem = path.name.split(".")[0]
        _refuse(annotations, "annotations", "the data set is an annotation file already; leave it out")
        # Many data sets use the same file name; the folder then identifies the data set.
        return read_annotations(
            path,
            root=data,
            name=path.absolute().parent.name if stem == "annotations" else stem,
            cache=cache,
        )
    card = read_card(name)
    if card.name not in GENERATED:
        return load_known(name, data, annotations, cache)
    if ":" in name:
        raise InputError(f"data set: got {name[:60]!r}, {card.name} has no variants")
    _refuse(data, "data", f"but {card.name} makes its own videos; leave it out")
    _refuse(annotations, "annotations", f"but {card.name} makes its own; leave it out")
    folder = _generated(card.name, config, cache, progress, workers)
    return read_annotations(
        folder / "annotations.json",
        root=folder / "videos",
        name=card.name,
        variant=f"{folder.name}-{miniature.read_pictures_sha256(folder)[:8]}",
        rules=AnnotationRules(card.classes, card.excluded),
    )


def load_features(
    name_or_json: str | Path,
    data: Path | None,
    cache: Path | None = None,
    *,
    annotations: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Return the data set with features of its videos in the folder `data` in place of the videos.

    Everything else is as for `load_dataset`, and generated data sets are generated as well.
    """
    if data is None or not data.is_dir():
        raise InputError(f"data: got {data}, the folder of the features is needed with --model features")
    name = str(name_or_json)
    if not is_annotation_path(name) and read_card(name).name not in GENERATED:
        return load_known(name, data, annotations, cache, features=True)
    videos = data if is_annotation_path(name) else None
    dataset = load_dataset(name_or_json, videos, cache, annotations=annotations, progress=progress)
    return replace(dataset, root=data, features=True)


def _generated(
    name: str,
    config: miniature.MiniatureConfig | synthetic.SyntheticConfig | None,
    cache: Path | None,
    progress: Progress | None,
    workers: int,
) -> Path:
    """Return the folder of an embedded data set."""
    if name == "miniature":
        assert config is None or isinstance(config, miniature.MiniatureConfig)
        return miniature.generate(config, cache, progress, workers)
    assert config is None or isinstance(config, synthetic.SyntheticConfig)
    return synthetic.generate(config, cache, progress, workers)


def _refuse(path: Path | None, option: str, reason: str) -> None:
    if path is not None:
        raise InputError(f"{option}: got {path}, {reason}")
