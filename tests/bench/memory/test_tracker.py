"""The storage tracker counts bytes that can be worked out by hand."""

import gc

import torch
from torch import nn

from bench.memory.allocator import CachingAllocator
from bench.memory.cuda_ops import MATRIX_PRODUCTS
from bench.memory.meter import MemoryMeter
from bench.memory.tracker import StorageTracker, ThreadWorkspace

MIB = 2**20


def test_counts_live_storages_once_and_forgets_freed_ones():
    tracker = StorageTracker()
    with tracker, tracker.phase("forward"):
        a = torch.zeros(1000)
        view = a.view(10, 100)[2:]
        b = torch.zeros(500, dtype=torch.float64)
        assert tracker.total == 4000 + 4000
        del b
        gc.collect()
        assert tracker.total == 4000
        c = view + 1  # 800 elements
        assert tracker.total == 4000 + 3200
    assert tracker.peaks["forward"].total == 8000
    assert c.numel() == 800


def test_training_step_of_a_linear_layer_by_hand():
    layer = nn.Linear(100, 50, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=False, fused=False)
    weight = 100 * 50 * 4

    def step(meter: MemoryMeter) -> None:
        with meter.phase("load"):
            x = torch.randn(8, 100)
        with meter.phase("forward"):
            loss = layer(x).sum()
        with meter.phase("backward"):
            loss.backward()
        with meter.phase("optimizer"):
            optimizer.step()
            meter.optimizer_stepped(optimizer)
            optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        meter = MemoryMeter(torch.device("cpu"))
        with meter.watching(layer, optimizer):
            step(meter)
    reading = meter.reading()
    state = 2 * weight + 4  # two moments and the step count
    x, loss = 8 * 100 * 4, 4
    assert reading.meter == "cpu-tensors"
    assert reading.peak_reserved_bytes is None
    assert reading.peak_device_bytes is None
    # The output (8 x 50) lives until the sum is taken; x and the loss until the step's end.
    assert reading.phases["forward"]["allocated"] == weight + state + x + 8 * 50 * 4 + loss
    assert reading.kinds["parameter"] == weight
    assert reading.kinds["optimizer"] == state
    assert reading.kinds["gradient"] == weight
    # AdamW needs one temporary for the denominator and one for its scaled copy at most.
    least = 2 * weight + state + x + loss
    assert least <= reading.phases["optimizer"]["allocated"] <= least + 2 * weight


def test_activations_of_backward_are_counted_and_inference_keeps_none():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(10)])
    peaks = {}
    for name, grad in (("training", True), ("inference", False)):
        meter = MemoryMeter(torch.device("cpu"))
        with meter.watching(model), meter.phase("forward"), torch.set_grad_enabled(grad):
            x = torch.randn(256, 64)
            for layer in model:
                x = torch.relu(layer(x))
        peaks[name] = meter.reading().peak_allocated_bytes
    parameters = sum(p.numel() * 4 for p in model.parameters())
    activation = 256 * 64 * 4
    assert (
        peaks["inference"] == parameters + 3 * activation or peaks["inference"] == parameters + 2 * activation
    )
    assert peaks["training"] >= parameters + 10 * activation


def test_hooks_are_taken_off():
    layer = nn.Linear(3, 3)
    meter = MemoryMeter(torch.device("cpu"))
    with meter.watching(layer), meter.phase("forward"):
        layer(torch.ones(1, 3)).sum()
    assert not layer.weight._post_accumulate_grad_hooks


def test_a_block_that_is_not_split_counts_as_a_whole():
    """As the card's allocated bytes do: 20 MiB are split only if more than 1 MiB remains."""
    tracker = StorageTracker("cpu", CachingAllocator())
    with tracker, tracker.phase("forward"):
        first = torch.zeros(6 * MIB, dtype=torch.uint8)
        second = torch.zeros(13 * MIB + MIB // 2, dtype=torch.uint8)
        assert tracker.total == 6 * MIB + 14 * MIB  # the rest of the first segment, whole
        third = torch.zeros(9 * MIB, dtype=torch.uint8)
        assert tracker.total == (6 + 14 + 9) * MIB  # a second segment, split
        assert sum(tracker.bytes_by_kind.values()) == tracker.total == tracker.allocator.allocated
        del second
        gc.collect()
        assert tracker.total == 15 * MIB
    assert len(first) + len(third) == 15 * MIB


def test_the_backward_threads_workspace_is_kept_from_its_first_product_on():
    tracker = StorageTracker(thread_workspace=ThreadWorkspace(MATRIX_PRODUCTS, 1000))
    x, y = torch.zeros(5, 5), torch.zeros(5, 5)
    with tracker:
        with tracker.phase("forward"):
            torch.mm(x, y)
        assert tracker.bytes_by_kind["temporary"] == 0
        with tracker.phase("backward"):
            x + 1
            assert tracker.bytes_by_kind["temporary"] == 0
            held = torch.mm(x, y)
        with tracker.phase("backward"):
            more = torch.mm(x, y)
        del held, more
        gc.collect()
        assert tracker.bytes_by_kind["temporary"] == tracker.total == 1000
