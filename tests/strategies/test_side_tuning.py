"""Ladder side-tuning: the published recurrence on pooled features, and no graph in the backbone."""

import numpy as np
import pytest
import torch

from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from strategies.field.side_tuning import SideTuning
from strategies.testing import check_only_named_parameters_move, tiny_vit
from tests.reference import ladder

FAMILIES = {"vit": tiny_vit, "tsm": tiny_tsm, "i3d": tiny_i3d}


def adapted(strategy, make_backbone=tiny_vit):
    """Return an adapted backbone in double precision, whose own parameters have random values."""
    torch.manual_seed(0)
    backbone = strategy.adapt(make_backbone()).double().eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if not name.startswith("inner."):
                parameter.copy_(0.4 * torch.randn(parameter.shape, dtype=torch.float64))
    return backbone


def clips_of(backbone, windows=2, clips=2):
    geometry = backbone.geometry
    size = geometry.image_size
    return torch.randn(windows, clips, 3, geometry.clip_frames, size, size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("strategy", "family"),
    [
        (SideTuning(), "vit"),
        (SideTuning(), "tsm"),
        (SideTuning(), "i3d"),
        (SideTuning(taps=(1, 0), reduction=2, temperature=0.7, mlp_ratio=1.5), "vit"),
        (SideTuning(taps=(-1,)), "tsm"),
    ],
)
def test_features_are_those_of_the_definition(strategy, family):
    backbone = adapted(strategy, FAMILIES[family])
    clips = clips_of(backbone)
    steps = clips.shape[1] * backbone.geometry.steps_per_clip
    mask = torch.arange(steps)[None] < torch.tensor([[steps], [steps - 2]])
    with torch.no_grad():
        found = backbone(clips, mask).transpose(1, 2).numpy()
        count = len(backbone.geometry.layer_widths)
        layers = backbone.inner.layers(clips.flatten(0, 1), range(count))
    pooled = [layer.mean(dim=(2, 3)).unflatten(0, clips.shape[:2]).flatten(1, 2).numpy() for layer in layers]
    weights = {name: value.numpy() for name, value in backbone.state_dict().items()}
    for window in range(len(clips)):
        taps = [pooled[tap][window] for tap in sorted(tap % count for tap in strategy.taps or range(count))]
        expected = ladder.features(
            taps, pooled[-1][window], mask[window].tolist(), weights, strategy.temperature
        )
        np.testing.assert_allclose(found[window], expected, rtol=1e-9, atol=1e-9)


def test_widths_gates_and_initial_values():
    for model, width in (("vit-b", 768 // 8), ("vit-l", 1024 // 8)):
        with torch.device("meta"):
            backbone = SideTuning().adapt(build_backbone(model))
        assert {rung.down.out_features for rung in backbone.rungs} == {width}
        assert len(backbone.rungs) == len(backbone.geometry.layer_widths)
    backbone = SideTuning().adapt(tiny_vit())
    assert backbone.rungs[0].down.out_features == 8  # and not 32 / 8
    # The first rung has no state before it, and so no gate.
    assert [hasattr(rung, "alpha") for rung in backbone.rungs] == [False, True, True]
    assert all(torch.equal(rung.alpha, torch.zeros(1)) for rung in list(backbone.rungs)[1:])
    assert not backbone.up.weight.any()
    assert not backbone.up.bias.any()


def test_a_step_moves_its_neighbours_and_padding_does_not():
    backbone = adapted(SideTuning(taps=(-1,)))
    clips = clips_of(backbone, windows=1, clips=3)
    changed = clips.clone()
    changed[:, 2] += 1
    steps = backbone.geometry.steps_per_clip
    with torch.no_grad():
        moved = (backbone(clips) != backbone(changed)).any(dim=1)[0].nonzero().flatten().tolist()
        assert moved == list(range(2 * steps - 1, 3 * steps))
        mask = torch.arange(3 * steps)[None] < 2 * steps
        first, second = backbone(clips, mask), backbone(changed, mask)
    assert torch.equal(first[..., : 2 * steps], second[..., : 2 * steps])


def test_no_graph_in_the_backbone():
    backbone = SideTuning(taps=(0, 1)).adapt(tiny_vit())
    encoded = backbone.encode(torch.randn(2, 3, 8, 32, 32, requires_grad=True))
    assert [tuple(part.shape) for part in encoded] == [(2, 4, 32)] * 3  # two taps and the last layer
    assert not any(part.requires_grad for part in encoded)
    assert len(SideTuning().adapt(tiny_vit()).encode(torch.randn(2, 3, 8, 32, 32))) == 3


def test_checkpointed_gradients_are_the_plain_ones():
    backbone = adapted(SideTuning())
    clips = clips_of(backbone)
    own = [parameter for name, parameter in backbone.named_parameters() if not name.startswith("inner.")]
    gradients = []
    for checkpointing in (False, True):
        backbone.set_checkpointing(checkpointing)
        gradients.append(torch.autograd.grad(backbone(clips).square().sum(), own))
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(checkpointed, plain, rtol=1e-12, atol=1e-12)


def test_everything_trains_where_layers_are_chosen():
    check_only_named_parameters_move(SideTuning(taps=(0, 1), reduction=4, mlp_ratio=1.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reduction": 0}, "reduction: allowed is 1 or more, got 0"),
        ({"temperature": 0.0}, "temperature: allowed is above 0"),
        ({"mlp_ratio": -1.0}, "mlp_ratio: allowed is above 0"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SideTuning(**settings)


def test_layers_that_the_backbone_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"side-tuning: field 'taps' has \[5\], allowed are -3 to 2"):
        SideTuning(taps=(5,)).adapt(tiny_vit())
