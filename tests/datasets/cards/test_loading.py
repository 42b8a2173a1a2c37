import json
from pathlib import Path

import pytest
from small import SMALL

import datasets
from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.io.errors import InputError
from datasets import card_protocol, known_datasets, load_dataset, read_card, video_path
from datasets.miniature import MiniatureConfig
from datasets.miniature.config import SUBSETS
from datasets.miniature.motions import TARGET_CLASSES

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def test_the_package_imported_is_this_repository_s() -> None:
    assert datasets.__file__ is not None
    assert (
        Path(datasets.__file__).resolve() == Path(__file__).resolve().parents[3] / "datasets" / "__init__.py"
    )


def test_the_miniature_is_loaded_with_its_videos(tmp_path: Path) -> None:
    dataset = load_dataset("miniature", cache=tmp_path, config=SMALL, workers=1)
    assert (dataset.name, len(dataset.videos), dataset.dropped) == ("miniature", 4, 0)
    pictures = json.loads((dataset.root.parent / "pictures.json").read_text())["sha256"]
    assert dataset.variant == f"miniature-{SMALL.version}-{SMALL.digest}-{pictures[:8]}"
    assert all(video_path(dataset, video).is_file() for video in dataset.videos)


def test_the_miniature_s_card_says_what_is_generated() -> None:
    card = read_card("miniature")
    assert card.classes == tuple(sorted(TARGET_CLASSES))
    assert tuple(card.subsets.values()) == SUBSETS
    assert card.tiou == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert card.frames_per_second == MiniatureConfig().frames_per_second


@pytest.mark.parametrize("name", known_datasets())
def test_every_card_can_be_read(name: str) -> None:
    card = read_card(name)
    assert {"train", "test"} <= set(card.subsets) <= {"train", "tune", "test"}
    assert set(card.printed_tiou) <= set(card.tiou)
    assert set(card.aliases.values()) <= set(card.subsets.values())
    for variant in card.variants:
        assert set(variant.videos) | set(variant.instances) <= set(card.subsets.values())


def test_cards_set_the_protocol_of_known_data_sets_only() -> None:
    override(default_protocol("vit-t"), card_protocol("activitynet13:4728"))
    assert card_protocol("thumos14:211")["tiou"] == "0.3+0.4+0.5+0.6+0.7"
    assert card_protocol("thumos14")["evaluation_subset"] == "test"
    assert card_protocol("miniature") == card_protocol("my/thumos14.json") == card_protocol("unknown") == {}


def test_the_guide_names_every_variant_and_its_counts() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name in known_datasets():
        for variant in read_card(name).variants:
            assert f"`{variant.name}`" in next(row for row in guide.splitlines() if f"`{name}`" in row)
    for variant in read_card("thumos14").variants:
        counts = f"| {variant.name} | {variant.videos['test']} | {variant.instances['test']} |"
        assert counts in guide


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 'thumos', known are .*miniature"):
        load_dataset("thumos", cache=tmp_path)


def test_the_miniature_takes_no_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes its own videos"):
        load_dataset("miniature", data=tmp_path, cache=tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_own_data_is_an_annotation_file_and_a_folder() -> None:
    dataset = load_dataset(SHARED / "stitched" / "annotations.json", data=SHARED / "stitched" / "videos")
    assert (len(dataset.subset("training")), len(dataset.subset("testing"))) == (24, 14)
