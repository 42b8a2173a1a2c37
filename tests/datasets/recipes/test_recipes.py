"""Every recipe against literals written here, from OpenTAD 3dd7b03 and actionformer_release 61ea7eb."""

import dataclasses
import operator
from typing import Any

import pytest

from bench.config.overrides import override
from bench.config.presets import MINIATURE, STANDARD
from bench.config.protocol import HeadSize, NmsConfig, Protocol
from bench.io.errors import InputError
from bench.models import MODEL_NAMES
from datasets import known_datasets, read_card
from datasets.cards.cards import GENERATED
from datasets.recipes.recipes import chosen_recipe, default_recipe, known_recipes, named_recipe, read_recipe
from strategies import build_strategy, installed

# configs/adatad/thumos/e2e_thumos_videomae_s_768x1_160_adapter.py and its bases.
THUMOS14_ADATAD: dict[str, Any] = {
    "epochs": 60.0,
    "schedule_length": 100 / 60,
    "warmup": 5 / 60,
    "steps": 0,
    "frames_per_second": 7.5,
    "image_size": 160,
    "clip_frames": 16,
    "clip_stride": None,
    "clip_seconds": None,
    "steps_per_clip": 16,
    "window_clips": 48,
    "window_overlap": 0.5,
    "resampling": "windows",
    "test_windows": "sliding",
    "temporal_crop": True,
    "truncation": 0.75,
    "crop_ratio": (0.9, 1.0),
    "augmentation": "crop-flip",
    "batch_size": 2,
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    "warmup_from_zero": True,
    "gradient_clip": 1.0,
    "ema_decay": 0.999,
    "precision": "bfloat16",
    "backward": "checkpointed",
    "positions": "interpolated",
    "snippet": "clip",
    "head.embd_dim": 512,
    "head.head_dim": 512,
    "head.fpn_dim": 512,
    "head.n_head": 4,
    "head.n_mha_win_size": -1,
    "head.embd_layers": 2,
    "head.stem_layers": 2,
    "head.levels": 6,
    "head.droppath": 0.1,
    "head.cls_prior_prob": 0.01,
    "head.init_loss_norm": 100.0,
    "head.use_abs_pe": False,
    "head.input_dropout": 0.0,
    "head.mask_input": False,
    "head.label_smoothing": 0.0,
    "head.loss_weight": 1.0,
    "head.pre_nms_topk": 2000,
    "head.duration_thresh": 0.0,
    "nms.nms_method": "soft",
    "nms.multiclass_nms": True,
    "nms.iou_threshold": 0.0,
    "nms.nms_sigma": 0.7,
    "nms.min_score": 0.0,
    "nms.max_seg_num": 2000,
    "nms.voting_thresh": 0.7,
}
# configs/adatad/anet/e2e_anet_videomae_s_192x4_160_adapter.py and its bases; multiclass_nms of
# e2e_anet_videomae_l_192x4_224_adapter_cls.py.
ACTIVITYNET13_ADATAD = THUMOS14_ADATAD | {
    "epochs": 15.0,
    "schedule_length": 1.0,
    "warmup": 5 / 15,
    "steps_per_clip": 4,
    "resampling": "fixed",
    "truncation": 0.5,
    "crop_ratio": (),
    "batch_size": 16,
    "learning_rate": 1e-3,
    "head.embd_dim": 256,
    "head.head_dim": 256,
    "head.fpn_dim": 256,
    "head.init_loss_norm": 200.0,
    "head.use_abs_pe": True,
    "head.label_smoothing": 0.1,
    "head.loss_weight": 2.0,
    "nms.min_score": 0.001,
    "nms.max_seg_num": 100,
    "nms.voting_thresh": 0.9,
}
# configs/thumos_i3d.yaml and libs/core/config.py of the release: 30 epochs after 5 of warmup.
THUMOS14_FEATURES = {key: value for key, value in THUMOS14_ADATAD.items() if key != "image_size"} | {
    "epochs": 35.0,
    "schedule_length": 1.0,
    "warmup": 5 / 35,
    "frames_per_second": 30.0,
    "frame_rate": "video",
    "feature_width": 2048,
    "clip_stride": 4,
    "steps_per_clip": 1,
    "window_clips": 2304,
    "test_windows": "whole",
    "truncation": 0.5,
    "augmentation": "none",
    "precision": "float32",
    "backward": "plain",
    "head.mask_input": True,
    "head.n_mha_win_size": 19,
    "head.duration_thresh": 0.05,
    "nms.iou_threshold": 0.1,
    "nms.nms_sigma": 0.5,
    "nms.min_score": 0.001,
    "nms.max_seg_num": 200,
}
# configs/anet_tsp.yaml of the release: 10 epochs after 5 of warmup.
ACTIVITYNET13_FEATURES = THUMOS14_FEATURES | {
    "epochs": 15.0,
    "warmup": 5 / 15,
    "frames_per_second": 15.0,
    "frame_rate": "protocol",
    "feature_width": 512,
    "clip_stride": None,
    "window_clips": 192,
    "resampling": "fixed",
    "test_windows": "sliding",
    "batch_size": 16,
    "learning_rate": 1e-3,
    "head.embd_dim": 256,
    "head.head_dim": 256,
    "head.fpn_dim": 256,
    "head.n_mha_win_size": (7, 7, 7, 7, 7, -1),
    "head.init_loss_norm": 200.0,
    "head.use_abs_pe": True,
    "head.label_smoothing": 0.1,
    "head.loss_weight": 2.0,
    "head.duration_thresh": 0.001,
    "nms.nms_sigma": 0.75,
    "nms.max_seg_num": 100,
    "nms.voting_thresh": 0.9,
}
EXPECTED: dict[str, dict[str, Any]] = {
    "thumos14:adatad": THUMOS14_ADATAD,
    "thumos14:actionformer-features": THUMOS14_FEATURES,
    "thumos14:videomaev2-features": THUMOS14_FEATURES | {"feature_width": 1408},
    # LoFi, section 4: snippets of 64 frames subsampled to 8, 100 of them, 224 pixels.
    "thumos14:lofi-like": THUMOS14_ADATAD
    | {
        "frames_per_second": 3.75,
        "image_size": 224,
        "clip_frames": 8,
        "clip_stride": 1,
        "steps_per_clip": 1,
        "window_clips": 100,
    },
    "activitynet13:adatad": ACTIVITYNET13_ADATAD,
    "activitynet13:lofi": ACTIVITYNET13_ADATAD
    | {
        "image_size": 224,
        "clip_frames": 8,
        "clip_seconds": 64 / 30,
        "steps_per_clip": 1,
        "window_clips": 100,
        "batch_size": 16,
    },
    "activitynet13:actionformer-features": ACTIVITYNET13_FEATURES,
    # configs/adatad/multi_thumos/e2e_multithumos_videomae_s_768x1_160_adapter.py.
    "multithumos:adatad": THUMOS14_ADATAD
    | {
        "epochs": 80.0,
        "schedule_length": 100 / 80,
        "warmup": 5 / 80,
        "head.embd_layers": 3,
        "head.stem_layers": 0,
        "head.pre_nms_topk": 8000,
        "nms.nms_sigma": 0.5,
        "nms.max_seg_num": 8000,
    },
    # configs/actionformer/multithumos_i3d.py.
    "multithumos:actionformer-features": THUMOS14_FEATURES
    | {
        "epochs": 45.0,
        "schedule_length": 65 / 45,
        "warmup": 5 / 45,
        "head.embd_layers": 3,
        "head.stem_layers": 0,
        "head.pre_nms_topk": 8000,
        "head.duration_thresh": 0.0,
        "nms.iou_threshold": 0.0,
        "nms.max_seg_num": 8000,
    },
    # configs/actionformer/hacs_slowfast.py.
    "hacs:actionformer-features": THUMOS14_FEATURES
    | {
        "epochs": 15.0,
        "warmup": 5 / 15,
        "frames_per_second": 15.0,
        "frame_rate": "protocol",
        "feature_width": 2304,
        "clip_frames": 32,
        "clip_stride": 8,
        "window_clips": 960,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 0.03,
        "head.embd_dim": 256,
        "head.head_dim": 256,
        "head.fpn_dim": 256,
        "head.n_mha_win_size": (13, 13, 13, 13, 13, -1),
        "head.init_loss_norm": 400.0,
        "head.use_abs_pe": True,
        "head.input_dropout": 0.1,
        "head.label_smoothing": 0.1,
        "head.duration_thresh": 0.0,
        "nms.iou_threshold": 0.0,
        "nms.nms_sigma": 0.75,
        "nms.max_seg_num": 100,
    },
    # ActivityNet-1.3's input with configs/actionformer/hacs_slowfast.py's decay and NMS.
    "hacs:adatad": ACTIVITYNET13_ADATAD
    | {"weight_decay": 0.03, "nms.nms_sigma": 0.75, "nms.voting_thresh": 0.7},
    # configs/actionformer/fineaction_videomaev2_g.py.
    "fineaction:actionformer-features": ACTIVITYNET13_FEATURES
    | {"clip_frames": None, "feature_width": 1408, "head.duration_thresh": 0.0, "nms.iou_threshold": 0.0},
    "fineaction:adatad": ACTIVITYNET13_ADATAD | {"nms.nms_sigma": 0.75},
}
# The epochs that the sources train: workflow.end_epoch, else scheduler.max_epoch; opt.epochs + 5.
SOURCE_EPOCHS = {
    "thumos14:adatad": 60,
    "thumos14:actionformer-features": 35,
    "thumos14:videomaev2-features": 35,
    "activitynet13:adatad": 15,
    "activitynet13:actionformer-features": 15,
    "multithumos:adatad": 80,
    "multithumos:actionformer-features": 45,
    "hacs:actionformer-features": 15,
    "hacs:adatad": 15,
    "fineaction:actionformer-features": 15,
    "fineaction:adatad": 15,
}
# Rates of parts of the detector over the head's.
FACTORS = {
    ("thumos14:adatad", "vit-s"): {
        **{"full-finetune.backbone_lr": 0.1, "lofi-added.backbone_lr": 0.1, "last-k.backbone_lr": 0.1},
        **{"norm-tuning.norm_lr": 1, "bitfit.bias_lr": 1, "etad.backbone_lr": 0.1},
        **{"losa.adapter_lr": 2, "mlp-control.block_lr": 2, "temporal-control.block_lr": 2},
        **{"last-layer-cells.adapter_lr": 2, "side-tuning.side_lr": 2},
        **{"adatad.adapter_lr": 2, "adatad-beside.adapter_lr": 2, "adatad-beside.ratio": 0.25},
        **{"lora.update_lr": 2, "vpt.prompt_lr": 10, "token-pruning.adapter_lr": 1},
    },
    ("thumos14:adatad", "vit-b"): {
        **{"full-finetune.backbone_lr": 0.1, "losa.adapter_lr": 1, "mlp-control.block_lr": 1},
        **{"adatad.adapter_lr": 1, "adatad-beside.adapter_lr": 2, "adatad-beside.ratio": 0.25},
    },
    ("thumos14:adatad", "vit-l"): {"token-pruning.after": (4, 8, 12, 16)},
    ("thumos14:adatad", "vit-g"): {
        **{"full-finetune.backbone_lr": 0.1, "losa.adapter_lr": 1},
        **{"adatad.adapter_lr": 1, "adatad-beside.adapter_lr": 2, "adatad-beside.ratio": 0.125},
    },
    ("activitynet13:adatad", "vit-b"): {
        **{"full-finetune.backbone_lr": 0.01, "etad.backbone_lr": 0.01, "last-k.backbone_lr": 0.01},
        **{"losa.adapter_lr": 0.1, "adatad.adapter_lr": 0.1, "lora.update_lr": 0.1},
    },
    ("activitynet13:lofi", "tsm-r18"): {"full-finetune.backbone_lr": 0.1, "last-k.backbone_lr": 0.1},
    ("multithumos:adatad", "vit-l"): {
        **{"full-finetune.backbone_lr": 0.1, "losa.adapter_lr": 4, "adatad.adapter_lr": 4},
    },
    ("multithumos:adatad", "vit-h"): {
        **{"full-finetune.backbone_lr": 0.1, "losa.adapter_lr": 1, "adatad.adapter_lr": 1},
    },
}
MEMORY_ONLY = {"frozen_clips", "micro_batch_clips", "streamed_checkpointing", "micro_batch_windows", "lean"}
NOT_OF_A_RECIPE = {
    *("training_subset", "evaluation_subset", "tiou", "cache", "threads", "classifier", "classifier_top"),
    *("head", "nms", "input_norm", "input_scale"),
}


def protocol_of(name: str, start: Protocol = STANDARD) -> Protocol:
    return override(start, read_recipe(name).changes())


@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_has_the_values_of_its_source(name: str) -> None:
    protocol = protocol_of(name)
    found = {field: operator.attrgetter(field)(protocol) for field in EXPECTED[name]}
    assert found == EXPECTED[name]
    recipe = read_recipe(name)
    assert EXPECTED[name].keys() == recipe.changes().keys()
    assert recipe.source_epochs == SOURCE_EPOCHS.get(name)
    for each in (*recipe.protocol.values(), *recipe.strategies.values(), *recipe.with_classifier.values()):
        start = ("chosen: ", "OpenTAD 3dd7b03 ", "actionformer_release 61ea7eb ")
        assert each.source.startswith(start)
    assert recipe.differs


@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_does_not_depend_on_the_model_s_own_protocol(name: str) -> None:
    wanted = {field.name for field in dataclasses.fields(Protocol)} - MEMORY_ONLY - NOT_OF_A_RECIPE
    wanted |= {f"head.{field.name}" for field in dataclasses.fields(HeadSize)}
    wanted |= {f"nms.{field.name}" for field in dataclasses.fields(NmsConfig)}
    if "features" in read_recipe(name).models:
        wanted -= {"image_size"}  # there are no images
    else:
        wanted -= {"feature_width", "frame_rate"}
    assert read_recipe(name).changes().keys() == wanted
    small = dataclasses.replace(MINIATURE, frozen_clips=STANDARD.frozen_clips, image_size=STANDARD.image_size)
    assert protocol_of(name, small) == protocol_of(name)


@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_trains_at_least_as_long_as_its_source(name: str) -> None:
    recipe, protocol = read_recipe(name), protocol_of(name)
    assert protocol.epochs is not None
    assert protocol.epochs >= (recipe.source_epochs or 0)
    assert protocol.epochs >= 15
    # For any number of videos: whole epochs, not a part of one.
    for videos in (200, 9649, 37618):
        steps = protocol.with_steps(videos).steps
        assert steps * protocol.batch_size >= protocol.epochs * (videos - protocol.batch_size + 1)


@pytest.mark.parametrize(("name", "model"), FACTORS)
def test_factors_are_the_sources(name: str, model: str) -> None:
    recipe = read_recipe(name)
    for key, value in FACTORS[name, model].items():
        strategy, _, setting = key.partition(".")
        built = build_strategy(strategy, recipe.settings(strategy, model))
        assert getattr(built, setting) == value


@pytest.mark.parametrize("name", known_recipes())
def test_every_factor_is_a_field_of_a_strategy(name: str) -> None:
    for key in read_recipe(name).strategies:
        assert key.partition(".")[0] in installed()
    for strategy in installed():
        for model in MODEL_NAMES:
            build_strategy(strategy, read_recipe(name).settings(strategy, model))


def test_a_classifier_replaces_what_its_source_has_for_one_class() -> None:
    for name, top, by_class in (
        ("activitynet13:adatad", 2, False),
        ("activitynet13:actionformer-features", 2, False),
        ("hacs:actionformer-features", 3, True),
        ("hacs:adatad", 3, True),
        ("fineaction:adatad", 2, False),
    ):
        fields = read_recipe(name).changes(classifier=True) | {"classifier": "scores.json 0123456789ab"}
        found = override(STANDARD, fields)
        assert (found.classifier_top, found.nms.multiclass_nms) == (top, by_class)


def test_a_cpu_keeps_its_precision() -> None:
    assert "precision" not in read_recipe("thumos14:adatad").changes("cpu")


def test_names_and_defaults() -> None:
    assert named_recipe("adatad", "thumos14:211").name == "thumos14:adatad"
    assert named_recipe("thumos14:adatad", "my/annotations.json").name == "thumos14:adatad"
    for name, dataset in (("adatta", "thumos14"), ("adatad", "my/a.json"), ("adatad", "miniature")):
        with pytest.raises(
            InputError, match=r"known are activitynet13:actionformer-features, .*thumos14:ada"
        ):
            named_recipe(name, dataset)
    defaults = {
        ("thumos14", "vit-g"): "thumos14:adatad",
        ("thumos14:211", "tsm-r50"): "thumos14:lofi-like",
        ("thumos14", "features"): "thumos14:actionformer-features",
        ("activitynet13", "tsm-r18"): "activitynet13:lofi",
        ("hacs", "vit-b"): "hacs:adatad",
    }
    for (dataset, model), name in defaults.items():
        found = default_recipe(dataset, model)
        assert found is not None
        assert found.name == name
    for dataset, model in (("thumos14", "vit-t"), ("miniature", "vit-b"), ("my/a.json", "vit-b")):
        assert default_recipe(dataset, model) is None
    assert chosen_recipe("none", "thumos14", "vit-b") is None
    assert chosen_recipe("adatad", "thumos14", "vit-t") is read_recipe("thumos14:adatad")


def test_every_recipe_is_of_a_known_data_set() -> None:
    assert {name.partition(":")[0] for name in known_recipes()} == set(known_datasets()) - set(GENERATED)
    for name in known_recipes():
        assert read_card(name.partition(":")[0]).subsets["train"]
