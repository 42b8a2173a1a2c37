"""The protocol: one digest for all that is held equal, fields from text, one line for mistakes."""

import dataclasses

import pytest
import torch

from bench.config.digest import TUNED_FIELDS
from bench.config.overrides import layered, override
from bench.config.presets import MINIATURE, STANDARD, default_protocol
from bench.config.protocol import HeadSize
from bench.io.errors import InputError
from bench.models import build_head


def test_every_field_changes_the_digest():
    seen = {MINIATURE.digest()}
    for field in dataclasses.fields(MINIATURE):
        value = getattr(MINIATURE, field.name)
        if field.name == "head":
            changed = dataclasses.replace(value, levels=5)
        elif field.name == "nms":
            changed = dataclasses.replace(value, nms_sigma=0.4)
        elif isinstance(value, bool):
            changed = not value
        elif isinstance(value, (int, float)):
            changed = value + 1
        elif isinstance(value, tuple):
            changed = (*value, 0.9)
        else:
            changed = f"{value}x"
        seen.add(dataclasses.replace(MINIATURE, **{field.name: changed}).digest())
    assert len(seen) == 1 + len(dataclasses.fields(MINIATURE)) - len(TUNED_FIELDS)


def test_what_is_tuned_for_each_strategy_counts_beside_the_digest():
    scaled = override(MINIATURE, {"input_norm": "scale", "input_scale": "2"})
    assert MINIATURE.tuned() == {}
    assert scaled.tuned() == {"input_norm": "scale", "input_scale": 2.0}
    assert scaled.digest() == MINIATURE.digest()
    for norm in ("batch-norm", "final-norm"):
        with pytest.raises(InputError, match=f"field 'input_norm': got '{norm}', allowed are none, scale"):
            override(MINIATURE, {"input_norm": norm})
    with pytest.raises(InputError, match=r"field 'input_scale' is 0\.0, allowed is 0\.001 to 1000"):
        override(MINIATURE, {"input_scale": "0"})


def test_defaults_by_model():
    assert default_protocol("vit-t") is MINIATURE
    assert default_protocol("vit-g") is STANDARD
    assert default_protocol("vit-g", "cpu") == dataclasses.replace(STANDARD, precision="float32")


def test_the_standard_protocol_has_the_times_of_adatad():
    assert 48 * 16 / STANDARD.frames_per_second == 102.4
    assert (STANDARD.epochs, STANDARD.steps, STANDARD.truncation) == (60, 0, 0.75)
    assert STANDARD.epochs * STANDARD.schedule_length == pytest.approx(100)
    assert STANDARD.epochs * STANDARD.warmup == pytest.approx(5)
    assert (STANDARD.window_clips, STANDARD.image_size, STANDARD.batch_size) == (48, 224, 1)


@pytest.mark.parametrize(
    ("videos", "batch", "epochs", "expected"),
    [(200, 2, 60.0, 6000), (201, 2, 60.0, 6000), (9649, 16, 15.0, 9045), (1, 2, 5.0, 5), (10, 2, 0.1, 2)],
)
def test_steps_follow_from_epochs(videos, batch, epochs, expected):
    protocol = dataclasses.replace(STANDARD, batch_size=batch, epochs=epochs)
    assert protocol.with_steps(videos).steps == expected
    assert dataclasses.replace(protocol, steps=7).with_steps(videos).steps == 7
    assert MINIATURE.with_steps(videos) is MINIATURE


def test_the_last_layer_decides_between_steps_and_epochs():
    recipe = {"steps": "0", "epochs": "60", "batch_size": "2"}
    assert layered(recipe, {}) == recipe
    assert layered(recipe, {"steps": "9"}) == {"steps": "9", "epochs": "none", "batch_size": "2"}
    assert layered(recipe, {"steps": "9"}, {"epochs": "3"})["steps"] == "0"
    found = override(STANDARD, {"steps": "9"})
    assert (found.steps, found.epochs) == (9, None)
    found = override(MINIATURE, {"epochs": "9"})
    assert (found.steps, found.epochs) == (0, 9)
    with pytest.raises(InputError, match="'steps' is 0, allowed is 2 to 100000000, or 0 with epochs"):
        override(MINIATURE, {"steps": "0"})


def test_override_sets_typed_fields():
    changed = override(
        MINIATURE, {"steps": "7", "head.levels": "3", "nms.nms_method": "hard", "tiou": ".5+.75"}
    )
    assert (changed.steps, changed.head.levels, changed.nms.nms_method) == (7, 3, "hard")
    assert changed.tiou == (0.5, 0.75)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stepps", "7", "unknown field 'stepps', known are frames_per_second"),
        ("head.depth", "7", "unknown field 'head.depth'"),
        ("head", "7", "unknown field 'head'"),
        ("neck.depth", "7", "unknown field"),
        ("steps", "many", "type int"),
        ("steps", "1", "'steps' is 1, allowed is 2"),
        ("precision", "int8", "float32, bfloat16"),
        ("window_overlap", "1.5", "window_overlap"),
        ("learning_rate", "nan", "learning_rate"),
    ],
)
def test_mistakes_are_one_line(key, value, words):
    with pytest.raises(InputError, match=words) as caught:
        override(MINIATURE, {key: value})
    assert "\n" not in str(caught.value)


def test_regression_ranges_double_and_the_last_is_open():
    keywords = MINIATURE.head.keywords(128)
    assert keywords["regression_range"] == ((0, 4), (4, 8), (8, 16), (16, 10000))
    assert keywords["backbone_arch"][2] == 3


def test_the_head_takes_windows_that_its_pyramid_does_not_divide():
    size = HeadSize(levels=6)
    assert [size.keywords(steps)["max_seq_len"] for steps in (1, 32, 48, 384)] == [32, 32, 64, 384]
    head = build_head(input_dim=4, num_classes=2, **size.keywords(48))
    outputs = head(torch.zeros(1, 4, 48), torch.ones(1, 48, dtype=torch.bool))
    assert [level[0].shape[1] for level in outputs] == [64, 32, 16, 8, 4, 2]
    assert [int(level[2].sum()) for level in outputs] == [48, 24, 12, 6, 3, 2]


def test_the_head_has_the_protocol_s_layers_windows_and_losses():
    size = HeadSize(
        n_mha_win_size=(7, 5, -1),
        embd_layers=3,
        stem_layers=0,
        levels=3,
        use_abs_pe=True,
        input_dropout=0.5,
        label_smoothing=0.1,
        loss_weight=2.0,
        pre_nms_topk=12,
        duration_thresh=0.25,
        **dict.fromkeys(("embd_dim", "head_dim", "fpn_dim"), 16),
    )
    config = build_head(input_dim=8, num_classes=2, **size.keywords(32)).config
    assert config.windows == (7, 5, -1)
    assert config.backbone_arch == (3, 0, 2)
    assert config.use_abs_pe
    train, test = config.train_cfg, config.test_cfg
    assert (train.input_dropout, train.label_smoothing, train.loss_weight) == (0.5, 0.1, 2.0)
    assert (test.pre_nms_topk, test.duration_thresh) == (12, 0.25)


def test_input_dropout_drops_whole_channels_in_training_only():
    """Whole channels of a window are zero or doubled, as torch's Dropout1d does (OpenTAD's input_pdrop)."""
    size = dataclasses.replace(HeadSize(), levels=2, input_dropout=0.5)
    head = build_head(input_dim=64, num_classes=2, **size.keywords(8))
    seen = []
    first = next(module for module in head.modules() if isinstance(module, torch.nn.Conv1d))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    features, mask = torch.rand(2, 64, 8) + 1, torch.ones(2, 8, dtype=torch.bool)
    for training in (True, False):
        head.train(training)(features, mask)
    dropped = (seen[0] == 0).all(dim=2)
    assert 0.2 < dropped.float().mean() < 0.8
    assert not torch.equal(dropped[0], dropped[1])
    kept = (seen[0] / features)[~dropped]
    torch.testing.assert_close(kept, torch.full_like(kept, 2.0))
    assert torch.equal(seen[1], features)
