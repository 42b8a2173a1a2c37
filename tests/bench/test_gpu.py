"""What only a CUDA device can prove. ``make gpu-check`` runs these; elsewhere they are deselected."""

import pytest
import torch
from conftest import records_of, run_bench
from torch import nn

from bench.memory.meter import MemoryMeter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def test_the_meter_reads_the_allocators_peak():
    device = torch.device("cuda")
    layer = nn.Linear(1024, 1024, bias=False, device=device)
    torch.cuda.empty_cache()
    meter = MemoryMeter(device)
    with meter.watching(layer), meter.phase("forward"), torch.no_grad():
        x = torch.zeros(4096, 1024, device=device)
        layer(x)
    reading = meter.reading()
    tracked = (1024 * 1024 + 2 * 4096 * 1024) * 4
    assert reading.meter == "cuda"
    # The allocator holds cuBLAS workspaces beside the tensors.
    assert tracked <= reading.peak_allocated_bytes <= tracked + 64 * 2**20
    assert reading.peak_reserved_bytes >= reading.peak_allocated_bytes
    assert reading.peak_device_bytes is None or reading.peak_device_bytes >= reading.peak_reserved_bytes
    assert sum(reading.kinds.values()) == tracked


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_four_strategies_run_on_the_device(precision, tiny_dataset, tmp_path):
    options = ("--device", "cuda", "--protocol", f"precision={precision}")
    process = run_bench(tiny_dataset, tmp_path, *options, strategies="head-only,lofi,full-finetune,losa")
    assert process.returncode == 0, process.stderr
    for record in records_of(tmp_path).values():
        assert record["memory"]["meter"] == "cuda"
        assert record["memory"]["peak_reserved_bytes"] > 0
        assert record["environment"]["device"] == torch.cuda.get_device_name()


def test_running_out_of_memory_is_a_row(tiny_dataset, plugin, tmp_path):
    process = run_bench(tiny_dataset, tmp_path, "--device", "cuda", strategies="faulty-small", plugin=plugin)
    assert process.returncode == 1
    [record] = records_of(tmp_path).values()
    assert record["status"] == "out-of-memory"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")
@pytest.mark.parametrize("options", [(), ("--sharded",)])
def test_two_cards_end_with_the_losses_of_one(options, tiny_dataset, tmp_path):
    """Without drawing on the card in another order: the batch's draws are made whole on each."""
    strategies = "full-finetune"
    for name, more in (("one", ()), ("two", ("--processes", "2", *options))):
        run_bench(tiny_dataset, tmp_path / name, "--device", "cuda", *more, strategies=strategies)
    one, two = (records_of(tmp_path / name)[strategies] for name in ("one", "two"))
    assert (one["status"], two["status"]) == ("ok", "ok")
    for alone, shared in zip(one["training"]["loss"], two["training"]["loss"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-3)
    assert len(two["memory"]["ranks"]) == 2
    assert two["memory"]["peak_allocated_bytes"] < one["memory"]["peak_allocated_bytes"]
