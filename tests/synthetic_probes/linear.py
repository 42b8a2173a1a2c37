"""Linear classification of clips of the frozen source backbone, from the last layer's mean or from cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models import build_backbone, shipped_weights
from bench.models.backbone import Backbone
from datasets import Dataset, video_path
from datasets.synthetic.config import SyntheticConfig
from datasets.synthetic.scenes import target_timeline
from datasets.video.frames import read_frames

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip around a time of a video (seconds), and its class."""

    video: str
    middle: float
    label: int


def instance_samples(dataset: Dataset, subset: str, classes: tuple[str, str]) -> list[Sample]:
    """Return one clip around the middle of each instance of two classes."""
    return [
        Sample(video.id, (instance.start + instance.end) / 2, classes.index(instance.label))
        for video in dataset.subset(subset)
        for instance in video.instances
        if instance.label in classes
    ]


def cue_samples(dataset: Dataset, subset: str, later: float) -> list[Sample]:
    """Return one clip around a time ``later`` seconds after the middle of each cue, by its direction."""
    found = []
    for video in dataset.subset(subset):
        cues = target_timeline(SyntheticConfig(), subset, int(video.id.rpartition("_")[2]))[1].cues
        for cue in cues:
            middle = (cue.start + cue.end) / 2 + later
            if 1.0 < middle < video.duration - 1.0:
                found.append(Sample(video.id, middle, int(cue.direction == "right")))
    return found


@torch.no_grad()
def layer_features(dataset: Dataset, backbone: Backbone, samples: list[Sample]) -> list[Tensor]:
    """Return for each layer the tokens (N, t, h, w, D) of the samples' clips."""
    paths = {video.id: video for video in dataset.videos}
    geometry, rate = backbone.geometry, SyntheticConfig().frames_per_second
    parts = []
    for first in range(0, len(samples), 64):
        clips = []
        for sample in samples[first : first + 64]:
            begin = round(sample.middle * rate) - geometry.clip_frames // 2
            times = (np.arange(begin, begin + geometry.clip_frames) + 0.5) / rate
            times = times.clip(0.5 / rate, paths[sample.video].duration - 0.5 / rate)
            frames = read_frames(video_path(dataset, paths[sample.video]), times, geometry.image_size)
            clips.append(torch.from_numpy(frames).permute(3, 0, 1, 2))
        depth = len(geometry.layer_widths)
        parts.append(backbone.layers(backbone.normalise(torch.stack(clips)), tuple(range(depth))))
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def last_mean(layers: list[Tensor]) -> Tensor:
    """Return the spatial mean of the last layer, its mean and deviation over the clip's steps, (N, 2 D)."""
    return _over_time(layers[-1].mean(dim=(2, 3)))


def cells_of(layer: int) -> Callable[[list[Tensor]], Tensor]:
    """Return a function for the 4 x 4 cells of a layer, mean and deviation over the steps, (N, 32 D)."""
    return lambda layers: _over_time(layers[layer].flatten(2))


def _over_time(steps: Tensor) -> Tensor:
    return torch.cat([steps.mean(dim=1), steps.std(dim=1)], dim=1)


def accuracy(features: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> float:
    """Return the accuracy on the second part of a linear classifier that is fitted to the first, in percent.

    Its penalty is the best of five in 5-fold cross-validation on the first part.
    """
    (fit, test), (known, wanted) = features, labels
    middle, scale = fit.mean(dim=0), fit.std(dim=0) + 1e-6
    fit, test = (fit - middle) / scale, (test - middle) / scale
    fold = torch.arange(len(fit)) % 5

    def held_out(penalty: float) -> float:
        right = [
            (
                _fitted(fit[fold != part], known[fold != part], penalty)(fit[fold == part])
                == known[fold == part]
            )
            for part in range(5)
        ]
        return float(torch.cat(right).float().mean())

    best = max(PENALTIES, key=held_out)
    return round(100 * float((_fitted(fit, known, best)(test) == wanted).float().mean()), 1)


def _fitted(features: Tensor, labels: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
    """Return a classifier by logistic regression with a squared penalty, fitted by L-BFGS."""
    weight = torch.zeros(features.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(features @ weight + bias, labels.float())
        loss = loss + penalty * (weight * weight).sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    return lambda other: (other @ weight.detach() + bias.detach() > 0).long()


def linear_probes(dataset: Dataset, source: int) -> dict[str, Any]:
    """Return accuracies (percent) for the short-range pair and for the cue's direction."""
    backbone = build_backbone("vit-t", shipped_weights(f"source-{source}", "synthetic")).eval()
    pair = ("shake-with-blink", "shake-with-nod")
    questions: dict[str, Callable[[str], list[Sample]]] = {
        "short-range pair": lambda subset: instance_samples(dataset, subset, pair),
        "direction of the cue, during it": lambda subset: cue_samples(dataset, subset, 0.0),
        "direction of the cue, 8 s later": lambda subset: cue_samples(dataset, subset, 8.0),
    }
    found: dict[str, Any] = {}
    for name, samples_of in questions.items():
        samples = [samples_of(subset) for subset in ("training", "tuning")]
        layers = [layer_features(dataset, backbone, each) for each in samples]
        fit, wanted = (torch.tensor([sample.label for sample in each]) for each in samples)
        readings = {"last layer, mean": last_mean}
        readings |= {f"layer {index + 1}, cells": cells_of(index) for index in range(len(layers[0]))}
        found[name] = {
            "clips": [len(each) for each in samples],
            **{
                reading: accuracy((read(layers[0]), read(layers[1])), (fit, wanted))
                for reading, read in readings.items()
            },
        }
    return found
