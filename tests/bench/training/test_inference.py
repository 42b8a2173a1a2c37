"""Detections come out in seconds of the whole video, whichever window saw them."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from bench.config.protocol import NmsConfig
from bench.training.detector import Detector
from bench.training.inference import detect_all
from strategies.head_only import HeadOnly
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit


class Oracle(nn.Module):
    """A head that sees an action from step 2 to step 5 in every window, of class 1."""

    def forward(self, features, mask):
        assert features.shape[2] == mask.shape[1] == 16
        return mask

    def detections(self, mask):
        return [(np.array([[2.0, 5.0]]), np.array([0.9]), np.array([1]))]


@pytest.fixture
def detections():
    backbone = tiny_vit()
    protocol = dataclasses.replace(TINY_PROTOCOL, window_overlap=0.5, nms=NmsConfig(nms_method="none"))
    store = tiny_store(backbone, protocol)
    found, reading = detect_all(Detector(backbone, Oracle()), store, protocol, torch.device("cpu"))
    return {each.video: each for each in found}, reading


def test_window_steps_become_seconds_of_the_video(detections):
    # Tiny clips have 4 steps of 2 frames at 10 frames a second. video3 has 7 clips: windows from 0, 2 and 3.
    starts = np.sort(detections[0]["video3"].segments[:, 0])
    assert starts == pytest.approx([(clip * 4 + 2 + 0.5) * 0.2 for clip in (0, 2, 3)])
    lengths = np.diff(detections[0]["video3"].segments, axis=1)[:, 0]
    assert lengths == pytest.approx([3 * 0.2] * 3)
    assert detections[0]["video3"].labels.tolist() == [1, 1, 1]


def test_a_video_of_one_window_has_one(detections):
    assert len(detections[0]["video0"].segments) == 1


def test_inference_has_a_peak_of_its_own(detections):
    assert detections[1].phases["inference"]["allocated"] == detections[1].peak_allocated_bytes
    assert detections[1].peak_allocated_bytes > 0


def test_one_window_covers_a_whole_video_where_the_protocol_says_so():
    class Whole(Oracle):
        def forward(self, features, mask):
            lengths.append((features.shape[2], int(mask.sum())))
            return mask

    lengths = []
    backbone = tiny_vit()
    protocol = dataclasses.replace(TINY_PROTOCOL, test_windows="whole", nms=NmsConfig(nms_method="none"))
    store = tiny_store(backbone, protocol)
    found, _ = detect_all(Detector(backbone, Whole()), store, protocol, torch.device("cpu"))
    clips = store.clips.values()
    assert sorted(lengths) == sorted((each.count * 4, each.valid_steps) for each in clips)
    for each in found:
        assert each.segments.tolist() == [pytest.approx([2.5 * 0.2, 5.5 * 0.2])]


def test_the_head_sees_a_whole_video_as_in_one_pass():
    detector, _ = tiny_detector(HeadOnly())
    detector.eval()
    protocol = dataclasses.replace(TINY_PROTOCOL, test_windows="whole")
    store = tiny_store(detector.backbone, protocol)
    longest = max(store.clips, key=lambda name: store.clips[name].count)
    clips = store.clips[longest]
    steps = clips.count * 4
    assert steps > detector.head.config.max_seq_len  # longer than any window of training
    mask = torch.arange(steps)[None] < clips.valid_steps
    with torch.no_grad():
        frames = detector.backbone.normalise(clips.frames.float())
        features = detector.backbone(frames[None], mask)
        (wanted,) = detector.head.detections(detector.head(features, mask))
    kept = dataclasses.replace(protocol, nms=NmsConfig(nms_method="none", max_seg_num=100_000, min_score=0.0))
    found, _ = detect_all(detector, store, kept, torch.device("cpu"))
    (mine,) = (each for each in found if each.video == longest)
    seconds = np.asarray(clips.grid.seconds(wanted[0].astype(np.float64)))
    seconds = seconds.clip(0, store.videos[longest].duration)
    # NMS sorts by score, so both are compared in the order of the scores.
    order, other = np.argsort(wanted[1], kind="stable"), np.argsort(mine.scores, kind="stable")
    assert len(order) == len(other) > 50
    np.testing.assert_allclose(mine.scores[other], wanted[1][order], rtol=1e-5)
    np.testing.assert_allclose(mine.segments[other], seconds[order], atol=1e-4)
