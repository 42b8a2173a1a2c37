"""The configurations that are forecast, by the names of the rows in ``results/anchors``.

A row's configuration was written down from its source before it was forecast. Names that end with
``_revised`` or ``_fitted`` are the others: after a forecast of the same figure, something was corrected from
a source, or chosen that no source says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from bench.plan.forecast import Forecast
from tests.anchors.steps import Peak, Step, cross_entropy, forecast_step, momentum_sgd
from tests.reference import video_classifiers as networks
from tests.reference.adatad import forecast_mebibytes
from tests.reference.adatad_released import COPIES, Released, forecast_adapters, forecast_inference
from tests.reference.old_formulas import old_softmax
from tests.reference.sv_tad import SparseAdapters
from tests.reference.timesformer import TimeSformer


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 1e-4, foreach=False, fused=False)


def mean_feature(features: Tensor) -> Tensor:
    """Stands for the loss of E2E-TAD's head, which is not traced."""
    return features.mean(dim=(2, 3)).sum()


def classification(build: Callable[[], nn.Module], videos: int, *shape: int) -> Peak:
    """MMAction2: float32, 224 pixels, SGD with momentum, cross entropy, several GPUs."""
    return forecast_step(Step(build, (videos, *shape, 224, 224), momentum_sgd, cross_entropy))


def e2e_tad(depth: int) -> Peak:
    """E2E-TAD: float32, four videos of 96 frames of 96 pixels, AdamW, one GPU."""
    build = partial(networks.e2e_encoder, depth, 96)
    return forecast_step(Step(build, (4, 96, 3, 96, 96), adamw, mean_feature, buckets=False))


def peak_of(forecast: Forecast) -> Peak:
    return Peak(forecast.peak_bytes, forecast.reserved_bytes)


def adatad(model: str, image_size: int, copies: tuple[str, ...]) -> Peak:
    return peak_of(forecast_adapters(Released(), model, image_size, copies))


def sv_tad(copies: tuple[str, ...]) -> Peak:
    return peak_of(forecast_adapters(SparseAdapters(), "vit-l", 224, copies))


def replica(model: str, image_size: int) -> Peak:
    return Peak(round(forecast_mebibytes(model, image_size) * 2**20), None)


def inference() -> Peak:
    return Peak(*forecast_inference("vit-b", 160))


def timesformer(attention: str, videos: int) -> Peak:
    return classification(partial(TimeSformer, attention), videos, 3, 8)


def timesformer_of_its_time(attention: str, videos: int) -> Peak:
    return classification(partial(TimeSformer, attention, old_softmax), videos, 3, 8)


def tsm(build: Callable[[int], nn.Module], frames: int, videos: int) -> Peak:
    return classification(partial(build, frames), videos, frames, 3)


ONE_SET = COPIES[:2]
"""The averaged copy, and the buckets of the detector but not of its copy."""

FORECASTS: Mapping[str, Callable[[], Peak]] = {
    "01_adatad-b": partial(adatad, "vit-b", 160, ONE_SET),
    "01_adatad-b_revised": partial(adatad, "vit-b", 160, COPIES),
    "01_adatad-b_fitted": partial(replica, "vit-b", 160),
    "02_adatad-g": partial(adatad, "vit-g", 154, ONE_SET),
    "02_adatad-g_revised": partial(adatad, "vit-g", 154, COPIES),
    "02_adatad-g_fitted": partial(replica, "vit-g", 154),
    "03_adatad-l": partial(adatad, "vit-l", 224, ONE_SET),
    "03_adatad-l_fitted": partial(adatad, "vit-l", 224, ()),
    "04_sv-tad-l": partial(sv_tad, ONE_SET),
    "04_sv-tad-l_fitted": partial(sv_tad, ()),
    "05_adatad-b_inference": inference,
    "06_tsm-r50_8x8": partial(tsm, networks.tsm_r50, 8, 8),
    "07_tsm-r50_16x6": partial(tsm, networks.tsm_r50, 16, 6),
    "08_tsm-mobilenetv2": partial(tsm, networks.tsm_mobilenet_v2, 8, 8),
    "08_tsm-mobilenetv2_revised": partial(tsm, networks.tsm_mobilenet_v2_of_its_time, 8, 8),
    "09_i3d-r50": partial(classification, networks.i3d_r50, 8, 3, 32),
    "10_r2plus1d-r34_8x8": partial(classification, networks.r2plus1d_r34, 8, 3, 8),
    "11_r2plus1d-r34_32x6": partial(classification, networks.r2plus1d_r34, 6, 3, 32),
    "12_timesformer_divided": partial(timesformer, "divided", 8),
    "12_timesformer_divided_revised": partial(timesformer_of_its_time, "divided", 8),
    "13_timesformer_joint": partial(timesformer, "joint", 7),
    "13_timesformer_joint_revised": partial(timesformer_of_its_time, "joint", 7),
    "14_timesformer_space": partial(timesformer, "space", 8),
    "14_timesformer_space_revised": partial(timesformer_of_its_time, "space", 8),
    "15_e2e-tad_tsm-r18": partial(e2e_tad, 18),
    "16_e2e-tad_tsm-r50": partial(e2e_tad, 50),
}


def forecast_row(name: str) -> Peak:
    """Return the forecast of a row. Changes the process: use a new one."""
    return FORECASTS[name]()
