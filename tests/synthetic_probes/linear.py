"""Linear classification of clips of the frozen source backbone, from the last layer's mean or from cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models import build_backbone, shipped_weights
from bench.models.backbone import Backbone
from datasets.miniature.rendering import render
from datasets.synthetic.config import SyntheticConfig
from datasets.synthetic.scenes import target_scene, target_timeline
from datasets.synthetic.timeline import DIRECTIONS, Timeline

PAIR = ("shake-with-blink", "shake-with-nod")
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


SUBSETS = {"training": 480, "tuning": 240}
"""Videos that clips are taken from, by index; those beyond the data set's are rendered for this alone."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A time in a video (seconds) and a class, 0 or 1."""

    middle: float
    label: int


Question = Callable[[Timeline, float], list[Sample]]
"""Returns the samples of a video, given what happens in it and its duration in seconds."""


def instance_samples(timeline: Timeline, _: float) -> list[Sample]:
    """Return the middle of each instance of the short-range pair."""
    return [
        Sample((instance.start + instance.end) / 2, PAIR.index(instance.label))
        for instance in timeline.instances
        if instance.label in PAIR
    ]


def cue_samples(timeline: Timeline, duration: float, later: float) -> list[Sample]:
    """Return a time ``later`` seconds after the middle of each cue, by its direction."""
    times = [((cue.start + cue.end) / 2 + later, cue.direction) for cue in timeline.cues]
    return [Sample(time, DIRECTIONS.index(direction)) for time, direction in times if 1 < time < duration - 1]


def clips_of(subset: str, questions: dict[str, Question], frames: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each question clips (N, 3, T, H, W) around its samples, not encoded, and their classes."""
    config = SyntheticConfig()
    clips: dict[str, list[Tensor]] = {name: [] for name in questions}
    labels: dict[str, list[int]] = {name: [] for name in questions}
    for index in range(SUBSETS[subset]):
        count, timeline = target_timeline(config, subset, index)
        pictures = np.concatenate(list(render(target_scene(config, subset, index), config.size)))
        for name, samples_of in questions.items():
            for sample in samples_of(timeline, count / config.frames_per_second):
                begin = round(sample.middle * config.frames_per_second) - frames // 2
                shown = np.arange(begin, begin + frames).clip(0, count - 1)
                clips[name].append(torch.from_numpy(pictures[shown]).permute(3, 0, 1, 2))
                labels[name].append(sample.label)
    return {name: (torch.stack(clips[name]), torch.tensor(labels[name])) for name in questions}


@torch.no_grad()
def layer_features(backbone: Backbone, clips: Tensor) -> list[Tensor]:
    """Return for each layer the tokens (N, t, h, w, D) of clips (N, 3, T, H, W)."""
    taps = tuple(range(len(backbone.geometry.layer_widths)))
    parts = [backbone.layers(backbone.normalise(part), taps) for part in clips.split(64)]
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


def majority(known: Tensor, wanted: Tensor) -> float:
    """Return the share of ``wanted`` that the most frequent class of ``known`` has, in percent."""
    return round(100 * float((wanted == known.mode().values).float().mean()), 1)


def linear_probes(sources: tuple[int, ...]) -> dict[str, Any]:
    """Return accuracies (percent) for the short-range pair and for the cue's direction, by source."""
    questions: dict[str, Question] = {
        "short-range pair": instance_samples,
        "direction of the cue, during it": partial(cue_samples, later=0.0),
        "direction of the cue, 8 s later": partial(cue_samples, later=8.0),
    }
    backbones = {
        f"source-{source}": build_backbone("vit-t", shipped_weights(f"source-{source}", "synthetic")).eval()
        for source in sources
    }
    frames = next(iter(backbones.values())).geometry.clip_frames
    clips = [clips_of(subset, questions, frames) for subset in SUBSETS]
    found: dict[str, Any] = {}
    for source, backbone in backbones.items():
        for name in questions:
            (fit, known), (test, wanted) = (each[name] for each in clips)
            layers = [layer_features(backbone, each) for each in (fit, test)]
            readings = {"last layer, mean": last_mean}
            readings |= {f"layer {index + 1}, cells": cells_of(index) for index in range(len(layers[0]))}
            found.setdefault(source, {})[name] = {
                "clips": [len(known), len(wanted)],
                "most frequent class": majority(known, wanted),
                **{
                    reading: accuracy((read(layers[0]), read(layers[1])), (known, wanted))
                    for reading, read in readings.items()
                },
            }
    return found
