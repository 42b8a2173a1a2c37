"""Twenty training steps on made features against the official ActionFormer release.

``tests/reference/actionformer_training.py`` makes the golden losses with the release's own model, optimizer,
scheduler and clipping.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config.presets import FEATURES
from bench.config.protocol import HeadSize
from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import TimeGrid
from bench.data.windows import TrainingSampler, Window
from bench.models.actionformer.config import head_config
from bench.models.actionformer.model import ActionFormer
from bench.models.backbones.features import FeatureBackbone
from bench.training.detector import Detector
from bench.training.loop import train
from bench.training.optimizer import parameter_groups, schedule
from bench.training.step import Trainer
from datasets.annotations.dataset import Instance, Video
from strategies.head_only import HeadOnly

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "actionformer_training.json").read_text(encoding="utf-8")
)
STEPS = len(GOLDEN["steps"])
GRID = TimeGrid(30.0, 4, 1, 2.0)
PROTOCOL = dataclasses.replace(
    FEATURES,
    window_clips=GOLDEN["model"]["max_seq_len"],
    steps=STEPS,
    learning_rate=GOLDEN["learning_rate"],
    weight_decay=GOLDEN["weight_decay"],
    warmup=GOLDEN["warmup_steps"] / STEPS,
    gradient_clip=GOLDEN["model"]["train_cfg"]["clip_grad_l2norm"],
    feature_width=GOLDEN["model"]["input_dim"],
    crop_ratio=(),
)


def seeded_input(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal(shape).astype(np.float32)


def seeded_weights() -> dict[str, torch.Tensor]:
    """Return the weights from which the official code started (``tests/golden/README.md``)."""
    found = {}
    for name, shape in GOLDEN["shapes"].items():
        digest = hashlib.sha256(f"{GOLDEN['seed']}:{name}".encode()).digest()[:8]
        values = seeded_input(int.from_bytes(digest, "little"), tuple(shape))
        if len(shape) <= 1 or (len(shape) == 3 and shape[0] == 1):
            values = np.float32(name.endswith(("weight", "scale"))) + np.float32(0.1) * values
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
        found[name] = torch.from_numpy(np.asarray(values, np.float32))
    return found


def golden_head(**train: float) -> ActionFormer:
    settings = {**GOLDEN["model"], "train_cfg": {**GOLDEN["model"]["train_cfg"], **train}}
    return ActionFormer(head_config({**settings, "mask_input": True}))


@dataclasses.dataclass(frozen=True)
class FixedWindows(TrainingSampler):
    """The windows of the golden steps, each a video of its own."""

    def windows(self, step: int) -> list[Window]:
        size = self.protocol.window_clips
        return [Window(f"{step}-{row}", 0, size) for row in range(len(GOLDEN["windows"][step]))]


def fixed_windows() -> FixedWindows:
    videos, clips = {}, {}
    classes = tuple(str(number) for number in range(GOLDEN["model"]["num_classes"]))
    for step, batch in enumerate(GOLDEN["windows"]):
        for row, window in enumerate(batch):
            name, length = f"{step}-{row}", window["length"]
            features = seeded_input(window["seed"], (PROTOCOL.feature_width, length)).T[:, None]
            times = [GRID.seconds(np.array(segment)) for segment in window["segments"]]
            found = tuple(
                Instance(float(start), float(end), classes[label])
                for (start, end), label in zip(times, window["labels"], strict=True)
            )
            videos[name] = Video(name, "training", float(GRID.seconds(length)), found)
            clips[name] = VideoClips(torch.from_numpy(features.copy()), length, GRID)
    return FixedWindows(FrameStore(videos, clips), PROTOCOL, classes, seed=0)


def test_losses_of_twenty_steps_are_those_of_the_official_code():
    head = golden_head()
    head.load_state_dict(seeded_weights(), strict=True)
    detector = Detector(FeatureBackbone(PROTOCOL.feature_width, 16, 1), head)
    protocol = dataclasses.replace(PROTOCOL, ema_decay=None)
    sampler = dataclasses.replace(fixed_windows(), protocol=protocol)
    trainer = Trainer(detector, protocol, sampler, torch.device("cpu"))
    log = train(trainer, HeadOnly().stages(), golden_head)
    wanted = torch.tensor([[step["cls"], step["reg"]] for step in GOLDEN["steps"]])
    torch.testing.assert_close(torch.tensor(log.losses), wanted, rtol=1e-4, atol=1e-4)
    assert wanted[0, 0] > 2 * wanted[-1, 0]  # it learns: equal losses are no accident of standing still
    sums = {name: value.detach().double().abs().sum().item() for name, value in head.named_parameters()}
    # The bias of keys has no gradient (a softmax does not see it), so AdamW adds rounding errors there.
    free = {name for name in sums if name.endswith(("key.bias", "key_norm.bias"))}
    assert len(free) == 10
    for names, tolerance in ((sums.keys() - free, 1e-4), (free, 1e-3)):
        assert {name: sums[name] for name in names} == pytest.approx(
            {name: GOLDEN["sums"][name] for name in names}, rel=tolerance
        )


def test_the_learning_rate_is_that_of_the_official_scheduler():
    for number, step in enumerate(GOLDEN["steps"]):
        rate = GOLDEN["learning_rate"] * schedule(number, STEPS, PROTOCOL.warmup, from_zero=True)
        assert rate == pytest.approx(step["learning_rate"], rel=1e-6, abs=2e-8)
    assert schedule(0, 100, 0.0, from_zero=True) == 1  # no warmup


def test_weights_decay_as_in_the_official_optimizer():
    head = golden_head(droppath=0.1)
    parameters = dict(head.named_parameters())
    names = {id(value): name for name, value in parameters.items()}
    groups = parameter_groups(parameters, dict.fromkeys(parameters, 1.0), PROTOCOL)
    found = {
        bool(group["weight_decay"]): sorted(names[id(value)] for value in group["params"]) for group in groups
    }
    assert found == {True: GOLDEN["decaying"], False: GOLDEN["not_decaying"]}


def test_features_after_the_end_of_a_video_count_as_zeros():
    """The release pads with zeros, so what a window repeats there must not reach the first convolution."""
    head = golden_head().eval()
    features = torch.from_numpy(seeded_input(1, (2, 24 * 64))).reshape(2, 24, 64)
    mask = (torch.arange(64) < 50).expand(2, 64)
    zeros = torch.where(mask[:, None], features, 0.0)
    plain = ActionFormer(dataclasses.replace(head.config, mask_input=False)).eval()
    plain.load_state_dict(head.state_dict())
    with torch.no_grad():
        wanted, found, other = plain(zeros, mask), head(features, mask), plain(features, mask)
    assert torch.equal(found[0][0], wanted[0][0])
    assert not torch.equal(found[0][0], other[0][0])


def test_the_default_protocol_for_features_has_the_releases_settings():
    keywords = FEATURES.head.keywords(FEATURES.window_clips)
    assert keywords["max_seq_len"] == 2304
    assert keywords["n_mha_win_size"] == 19
    assert keywords["mask_input"]
    assert keywords["test_cfg"]["pre_nms_topk"] == 2000
    assert HeadSize().mask_input is False
    assert (FEATURES.clip_frames, FEATURES.clip_stride, FEATURES.feature_width) == (16, 4, 2048)
    assert (FEATURES.batch_size, FEATURES.crop_ratio, FEATURES.truncation) == (2, (0.9, 1.0), 0.5)
    assert FEATURES.with_steps(200).steps == 35 * 200 // 2
