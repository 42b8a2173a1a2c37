"""ETAD: the gradient of a random share of the clips, as an estimate of the gradient of all of them."""

import dataclasses
import itertools

import pytest
import torch

from bench.data.windows import TrainingSampler
from bench.features.streamed import ClipSample
from bench.io.errors import InputError
from bench.memory.meter import NoMeter
from bench.models.backbone import Backbone
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.vit import VideoViT
from bench.models.random_state import BatchRows, BatchSlice, batch_slice_context, uniform
from bench.plan.grid import modes
from bench.training.checkpoints.fingerprint import Fingerprint
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.detector import freeze_except
from bench.training.loop import train
from bench.training.step import Trainer
from strategies.base import FULL, Rule, Stage
from strategies.field.etad import ETAD
from strategies.full_finetune import FullFinetune
from strategies.testing import (
    CLASSES,
    TINY_PROTOCOL,
    TINY_VIT,
    tiny_detector,
    tiny_store,
    tiny_vit,
    train_tiny,
)

CPU = torch.device("cpu")
CLIPS = TINY_PROTOCOL.window_clips
WINDOWS = TINY_PROTOCOL.batch_size
STREAMED = dataclasses.replace(TINY_PROTOCOL, backward="streamed")
DRAWS = 2000


class KeptGradients:
    """In place of the optimizer: the gradient as the backward pass left it."""

    state = {}  # noqa: RUF012

    def step(self):
        pass


def dropping_vit():
    return VideoViT(dataclasses.replace(TINY_VIT, drop_path=0.4))


def gradients(strategy, protocol=TINY_PROTOCOL, make_backbone=tiny_vit, dtype=torch.float64):
    """Return the gradients of a step by name, and the generator's next draw."""
    detector, _ = tiny_detector(strategy, protocol, make_backbone)
    detector.to(dtype)
    [stage] = strategy.stages()
    freeze_except(detector, stage)
    sampler = TrainingSampler(tiny_store(detector.backbone, protocol), protocol, CLASSES, 0)
    torch.manual_seed(5)
    Trainer(detector, protocol, sampler, CPU).for_stage(stage).step(0, FULL, None, KeptGradients(), NoMeter())
    return {name: p.grad for name, p in detector.named_parameters()}, torch.rand(3)


def flat(found, prefix):
    return torch.cat([value.flatten() for name, value in found.items() if name.startswith(prefix)])


@pytest.fixture
def double(monkeypatch):
    """Clips reach the backbone in double precision."""
    original = Backbone.normalise
    monkeypatch.setattr(Backbone, "normalise", lambda self, clips: original(self, clips).double())


def drawing(monkeypatch, rows):
    monkeypatch.setattr(ClipSample, "draw", lambda self, windows, clips: list(rows))


@pytest.fixture
def clip_gradients(double, monkeypatch):
    """Return the backbone's gradient of each clip, the gradients of all of them, and the next draw."""
    with monkeypatch.context() as patch:
        found = []
        for row in range(WINDOWS * CLIPS):
            drawing(patch, [row])
            found.append(flat(gradients(ETAD(), make_backbone=dropping_vit)[0], "backbone."))
    return torch.stack(found), *gradients(FullFinetune(), STREAMED, dropping_vit)


def test_the_mean_of_the_scaled_gradient_is_the_full_one(clip_gradients):
    parts, whole, _ = clip_gradients
    backbone, head = flat(whole, "backbone."), flat(whole, "head.")
    torch.testing.assert_close(parts.sum(0), backbone, rtol=1e-9, atol=1e-12)
    torch.manual_seed(0)
    sample = ClipSample(0.3, scaled=True)
    weights = torch.zeros(len(parts), dtype=torch.float64)
    for _ in range(DRAWS):
        weights[sample.draw(WINDOWS, CLIPS)] += sample.factor(CLIPS) / DRAWS
    error = (weights @ parts - backbone).norm()
    assert error / torch.cat([backbone, head]).norm() < 0.02  # the head's own gradient has no error
    # One clip of S is drawn for each window, with a factor of S.
    each = CLIPS * parts.unflatten(0, (WINDOWS, CLIPS))
    variance = (each - each.mean(1, keepdim=True)).square().sum(2).mean(1).sum()
    assert error < 3 * (variance / DRAWS).sqrt()
    assert (variance / DRAWS).sqrt() < 0.05 * backbone.norm()


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("rows", [(0, 5), (2, 3, 4, 7)])
def test_a_step_has_the_gradient_of_the_drawn_clips(clip_gradients, rows, scaled, monkeypatch):
    parts, whole, after_whole = clip_gradients
    share = len(rows) / (WINDOWS * CLIPS)
    drawing(monkeypatch, rows)
    for clips, inner in ((1, "plain"), (3, "checkpointed"), (8, "streamed")):
        protocol = dataclasses.replace(TINY_PROTOCOL, backward=inner, micro_batch_clips=clips)
        found, after = gradients(ETAD(share=share, scaled=scaled), protocol, dropping_vit)
        expected = parts[list(rows)].sum(0) / (share if scaled else 1)
        torch.testing.assert_close(flat(found, "backbone."), expected, rtol=1e-9, atol=1e-12)
        for name, value in found.items():
            if name.startswith("head."):
                torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-12)
        assert torch.equal(after, after_whole)


@pytest.mark.parametrize("backward", ["plain", "streamed"])
def test_a_share_of_1_is_full_fine_tuning_bit_for_bit(backward):
    protocol = dataclasses.replace(TINY_PROTOCOL, backward=backward)
    found, expected = (train_tiny(each, protocol) for each in (ETAD(share=1.0), FullFinetune()))
    assert found.log.losses == expected.log.losses
    weights = expected.detector.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.detector.state_dict().items())


def test_draws_are_uniform_without_replacement_and_independent_of_the_division():
    assert [ClipSample(share, False).count(8) for share in (0.01, 0.3, 0.32, 0.99)] == [1, 2, 3, 8]
    sample = ClipSample(0.5, scaled=False)
    torch.manual_seed(0)
    seen = [tuple(sample.draw(1, 4)) for _ in range(1200)]
    counts = [seen.count(pair) for pair in itertools.combinations(range(4), 2)]
    assert sum(counts) == 1200
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts)
    torch.manual_seed(1)
    whole = sample.draw(4, 6)
    for before, count in ((0, 1), (1, 2), (3, 1)):
        torch.manual_seed(1)
        with batch_slice_context(BatchSlice(before, count, 4 - before - count)):
            part = sample.draw(count, 6)
        assert part == [row - 6 * before for row in whole if before <= row // 6 < before + count]


def test_rows_of_a_batch_draw_what_the_batch_draws():
    torch.manual_seed(2)
    whole = torch.rand(5 * 2, 3)
    torch.manual_seed(2)
    with batch_slice_context(BatchRows((4, 1), 5)):
        assert torch.equal(uniform(4, 3), torch.cat([whole[8:10], whole[2:4]]))


@pytest.mark.parametrize("clips", [1, 2])
def test_only_drawn_clips_are_run_with_a_graph(clips, monkeypatch):
    seen = {True: 0, False: 0}
    original = Backbone.normalise

    def count(self, part):
        seen[torch.is_grad_enabled()] += len(part)
        return original(self, part)

    monkeypatch.setattr(Backbone, "normalise", count)
    strategy = ETAD(share=0.5)
    for backward in ("plain", "checkpointed", "streamed"):
        seen.update({True: 0, False: 0})
        protocol = dataclasses.replace(TINY_PROTOCOL, backward=backward, micro_batch_clips=clips)
        gradients(strategy, protocol, dtype=torch.float32)
        assert seen == {True: WINDOWS * 2, False: WINDOWS * CLIPS}


def test_the_division_into_passes_and_windows_changes_rounding_alone(double):
    expected, after = gradients(ETAD(share=0.5), make_backbone=dropping_vit)
    assert flat(expected, "backbone.").norm() > 0
    for changes in ({"micro_batch_clips": 3}, {"micro_batch_windows": 1}):
        protocol = dataclasses.replace(TINY_PROTOCOL, **changes)
        found, other = gradients(ETAD(share=0.5), protocol, dropping_vit)
        assert torch.equal(after, other)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_single_snippets_of_a_lower_fidelity_are_drawn(double):
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=48)
    found, _ = gradients(ETAD(), protocol, tiny_tsm)
    assert flat(found, "backbone.").norm() > 0


@pytest.mark.parametrize("steps", [1, 4])
def test_resumed_is_bitwise_the_unbroken_run(steps, tmp_path):
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=6)
    strategy = ETAD(share=0.5)

    def go(progress=lambda phase, done, total: None, *, keep=True):
        detector, fresh_head = tiny_detector(strategy, protocol, dropping_vit)
        sampler = TrainingSampler(tiny_store(detector.backbone, protocol), protocol, CLASSES, 0)
        owner = Fingerprint("tiny", str(torch.__version__), "code")
        kept = ResumeCheckpointer(tmp_path / "tiny.pt", owner, 0.0, [].append) if keep else None
        log = train(Trainer(detector, protocol, sampler, CPU), strategy.stages(), fresh_head, progress, kept)
        return detector.state_dict(), log

    def stop(phase, done, total):
        if done == steps:
            raise KeyboardInterrupt

    whole, log = go(keep=False)
    with pytest.raises(KeyboardInterrupt):
        go(stop)
    found, other = go()
    assert other.resumed == (steps,)
    assert other.losses == log.losses
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


class Mixing(Backbone):
    """Adds the mean of all clips of a pass to each."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.geometry = inner, inner.geometry

    def tokens(self, clips, window_clips=1):
        tokens = self.inner.tokens(clips)
        return tokens + tokens.mean(dim=0)


class Dropping(Backbone):
    """Drops channels by a layer that a pass of other clips cannot repeat."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.geometry = inner, inner.geometry
        self.drop = torch.nn.Dropout(0.5)

    def tokens(self, clips, window_clips=1):
        return self.drop(self.inner.tokens(clips))


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Sampled gradients in a given backbone, or with rules that leave the backbone frozen."""

    kind: type[Backbone]
    pattern: str = ".*"
    name = "sampled"

    def adapt(self, backbone):
        return self.kind(backbone)

    def stages(self):
        return (Stage("all", (Rule(self.pattern),), backward_share=0.5),)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Sampled(Mixing), "backward_share of 0.5 .* for Mixing, in which clips mix; allowed for it is 1"),
        (Sampled(Dropping), r"stage all: backward_share: drop \(Dropout\) draws independently in each pass"),
        (Sampled(Mixing, r"head\..*"), "stage all: backward_share is 0.5, but the stage trains no parameter"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(strategy, words):
    with pytest.raises(InputError, match=words):
        train_tiny(strategy)


def test_gradients_cannot_be_released_between_passes():
    lean = dataclasses.replace(TINY_PROTOCOL.lean, release_gradients=True)
    with pytest.raises(InputError, match=r"'lean.release_gradients' is true, allowed is false in stage end"):
        train_tiny(ETAD(), dataclasses.replace(TINY_PROTOCOL, lean=lean))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share: allowed is above 0 and at most 1"):
        ETAD(share=share)
    with pytest.raises(ValueError, match=r"backward_share must be in \(0, 1\]"):
        Stage("all", (), backward_share=share)


def test_modes_that_differ_in_memory():
    assert modes("vit-t", ETAD(), "all", "plain") == ("plain", "checkpointed")
    assert modes("vit-t", ETAD(share=1.0), "all", "plain") == ("plain", "checkpointed", "streamed")
    assert modes("vit-t", FullFinetune(), "all", "plain") == ("plain", "checkpointed", "streamed")
