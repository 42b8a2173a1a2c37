"""Measured steps of a small model on a CPU."""

import pytest
import torch

from bench.measure import steps
from bench.measure.steps import build, measure
from bench.plan.request import ForecastRequest

QUESTION = ForecastRequest("vit-t", "head-only", {}, {"window_clips": "2", "image_size": "16"}, "cpu")
CPU = torch.device("cpu")
KERNEL = "aten::_scaled_dot_product_flash_attention_for_cpu"


@pytest.fixture(scope="module")
def built():
    return build(QUESTION)


def test_a_row_names_the_attention_kernels_of_its_step(built):
    row = measure(QUESTION, built, CPU)
    assert (row["status"], row["message"], row["weights"]) == ("ok", None, "random")
    assert {KERNEL, f"{KERNEL}_backward"} <= set(row["attention_kernels"])
    assert row["measured"]["clips_per_second"] == pytest.approx(4 / row["measured"]["seconds_per_step"])


def test_a_profiler_without_room_does_not_cost_the_row(built, monkeypatch):
    def full(step, device):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(steps, "attention_kernels", full)
    row = measure(QUESTION, built, CPU)
    assert row["status"] == "ok"
    assert row["attention_kernels"] is None
    assert row["attention_kernels_message"] == "OutOfMemoryError: CUDA out of memory."


def test_an_error_of_the_building_is_the_row():
    row = measure(QUESTION, MemoryError("no more"), CPU)
    assert (row["status"], row["message"], row["measured"]) == ("out-of-memory", "MemoryError: no more", None)
