"""Probes of a device: each by itself, on a simulated card, and on this machine's CPU."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench.measure.probes import run_probes
from bench.measure.probes.attention import _bytes_beside, cases, probe_case
from bench.measure.probes.card import cublas_workspaces, matrix_rate, nvml
from bench.measure.probes.training import lowered_weights, one_process_sharded, streamed_gradient

CPU = torch.device("cpu")
ENVIRONMENT = {"device": "a card", "commit": "0" * 40, "packages": {"torch": "2"}}


def test_a_probe_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    calls = []

    def good(device):
        calls.append("good")
        return {"bytes": 5}

    def bad(device):
        calls.append("bad")
        if calls.count("bad") == 1:
            raise RuntimeError("CUDA error: no such kernel\nmore")
        return {"bytes": 6}

    path, probes = tmp_path / "probes.json", {"bad": bad, "good": good}
    found = run_probes(probes, CPU, ENVIRONMENT, path)["probes"]
    assert json.loads(path.read_text())["environment"] == ENVIRONMENT
    assert (found["bad"]["status"], found["bad"]["values"]) == ("error", None)
    assert found["bad"]["message"] == "RuntimeError: CUDA error: no such kernel"
    assert found["good"]["values"] == {"bytes": 5}
    # Once more: only what has failed.
    found = run_probes(probes, CPU, ENVIRONMENT, path)["probes"]
    assert calls == ["bad", "good", "bad"]
    assert found["bad"]["values"] == {"bytes": 6}
    run_probes(probes, CPU, {**ENVIRONMENT, "device": "another"}, path)
    assert calls[3:] == ["bad", "good"]
    assert json.loads(path.read_text())["environment"]["device"] == "another"


@pytest.fixture
def card(monkeypatch):
    """A simulated allocator: its readings are taken from ``allocated``, and its peaks from ``peaks``."""
    found = SimpleNamespace(allocated=iter(()), peaks=iter(()))
    for name, value in (
        ("synchronize", lambda device=None: None),
        ("reset_peak_memory_stats", lambda device: None),
        ("memory_allocated", lambda device: next(found.allocated)),
        ("max_memory_allocated", lambda device: next(found.peaks)),
        ("memory_reserved", lambda device: 7 << 20),
        ("get_device_capability", lambda device: (9, 0)),
        ("get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30, uuid="GPU-1")),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    return found


def test_workspaces_are_what_the_first_products_leave(card):
    card.allocated = iter([100, 100 + (32 << 20), 5, 5, 7, 7 + (32 << 20)])
    assert cublas_workspaces(CPU) == {
        "forward_bytes": 32 << 20,
        "linear_bytes": 0,
        "backward_bytes": 32 << 20,
        "capability": [9, 0],
        "forecast_bytes": 32 << 20,
    }


def test_attention_is_probed_beside_its_result_and_its_gradients(card):
    query = torch.zeros(1, 2, 4, 8, requires_grad=True)
    inputs = [query, *(torch.zeros(1, 2, 6, 8, requires_grad=True) for _ in range(2))]
    result, gradients = 4 * 2 * 4 * 8, 4 * 2 * 8 * (4 + 6 + 6)
    card.allocated, card.peaks = iter([1000, 2000]), iter([1000 + result + 32, 2000 + gradients + 640])
    assert _bytes_beside(inputs, None, torch.ones(1, 2, 4, 8), CPU) == (32, 640)


def test_nvml_is_asked_for_the_processes_of_the_card(card, monkeypatch):
    listed = [SimpleNamespace(pid=1, usedGpuMemory=5), SimpleNamespace(pid=2, usedGpuMemory=None)]
    monkeypatch.setattr("pynvml.nvmlInit", lambda: None)
    monkeypatch.setattr("pynvml.nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr("pynvml.nvmlDeviceGetComputeRunningProcesses", lambda handle: listed)
    monkeypatch.setattr("pynvml.nvmlDeviceGetMemoryInfo", lambda handle, **_: SimpleNamespace(used=9))
    monkeypatch.setattr("os.getpid", lambda: 1)
    card.allocated = iter([4 << 20])
    found = nvml(CPU)
    assert found["processes"] == [{"id": 1, "bytes": 5}, {"id": 2, "bytes": None}]
    assert (found["process"], found["process_bytes"], found["used_bytes"]) == (1, 5, 9)
    assert (found["allocated_bytes"], found["held_bytes"]) == (4 << 20, 4 << 20)


def test_all_head_sizes_of_the_models_are_probed():
    heads = {case.channels for case in cases("cuda").values()}
    assert {16, 64, 80, 88, 128} <= heads
    assert cases("cuda")["vit-g, 1 clips"].queries == 8 * 16 * 16
    assert cases("cuda")["vit-b, 4 clips"].queries == 8 * 14 * 14


@pytest.mark.parametrize("name", ["vit-t, 1 clips", "head, local"])
def test_a_case_gives_its_kernels_and_is_right(name):
    found = probe_case(cases("cpu")[name], torch.float32, CPU)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in found["kernels"]
    assert found["largest_error"] < 1e-5
    assert found["finite"]
    assert found["forward_bytes"] is None


def test_the_rate_is_of_the_products_that_were_timed():
    found = matrix_rate(CPU)
    assert found["bfloat16_operations_per_second"] == pytest.approx(2 * found["rows"] ** 3 / found["seconds"])


@pytest.mark.slow
def test_training_is_probed_on_a_cpu():
    found = streamed_gradient(CPU)
    assert found["relative_difference"] < 1e-5
    assert found["generators_agree"]
    assert lowered_weights(CPU)["equal"]
    found = one_process_sharded(CPU)
    assert found["backend"] == "gloo"
    assert found["whole"] == found["sharded"]
