"""The memory of a GPU that this process and others use, on a simulated card of 80 GB with NVML."""

import os
from types import SimpleNamespace

import pynvml
import pytest
import torch

from bench.io.errors import InputError
from bench.memory import device as card_module
from bench.memory.constants import CONTEXT_BYTES
from bench.memory.device import check_card, device_use, note_used_bytes
from bench.memory.meter import MemoryMeter
from bench.run.record_builder import RankMemory, memory
from bench.training.history import StageMemory
from strategies.base import Fidelity

MIB = 2**20
DEVICE = torch.device("cuda", 0)


class Card:
    """A card on which the driver reserves memory, with the processes that NVML lists: id to bytes."""

    def __init__(self, processes, unlisted=0, initialized=True, second_version=True):
        self.processes, self.unlisted = processes, unlisted
        self.initialized, self.second_version = initialized, second_version
        self.reserved, self.in_cache = 516 * MIB, 0

    def memory(self, handle, version=None):
        if version is not None and not self.second_version:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        used = sum(size or 0 for size in self.processes.values()) + self.unlisted
        return SimpleNamespace(used=used if version is not None else used + self.reserved)

    def listed(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.items()]


@pytest.fixture
def simulate(monkeypatch):
    def simulate(card):
        monkeypatch.setattr(card_module, "USED_BEFORE", {}, raising=False)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: "handle")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: {"GPU-1": "handle"}[uuid])
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: "GPU-1")
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", card.memory)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", card.listed)
        properties = SimpleNamespace(uuid="1", total_memory=81042 * MIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: card.initialized)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: card.in_cache)
        for name in ("synchronize", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda device: None)
        for name in ("max_memory_allocated", "max_memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, lambda device: card.in_cache)
        return card

    return simulate


def test_what_the_driver_and_this_process_hold_is_not_the_use_of_others(simulate):
    simulate(Card({os.getpid(): 1100 * MIB, 1: 100 * MIB}))
    check_card("cuda")
    card = simulate(Card({}, unlisted=2000 * MIB))
    card.in_cache = 2000 * MIB - CONTEXT_BYTES
    check_card("cuda")  # the ids of processes are those of another system


@pytest.mark.parametrize("second_version", [True, False])
@pytest.mark.parametrize("processes", [{1: 2000 * MIB}, {1: 2000 * MIB, os.getpid(): 1000 * MIB}])
def test_the_use_of_others_is_refused(simulate, second_version, processes):
    simulate(Card(processes, second_version=second_version, initialized=len(processes) > 1))
    with pytest.raises(InputError, match=r"--device: 2\.\d GB of cuda are in use by other processes"):
        check_card("cuda")


def test_an_older_driver_reports_what_it_reserves_as_used(simulate):
    simulate(Card({}, second_version=False, initialized=False))
    check_card("cuda")


def measured():
    meter = MemoryMeter(DEVICE)
    with meter.phase("forward"):
        torch.zeros(1)
    return meter


def test_this_process_is_measured_where_nvml_lists_it(simulate):
    simulate(Card({os.getpid(): 900 * MIB, 1: 300 * MIB}))
    assert device_use(DEVICE) == (900 * MIB, "process")
    assert measured().reading().device_source == "process"


@pytest.mark.parametrize("processes", [{}, {10**7: 1500 * MIB}, {os.getpid(): None}])
def test_elsewhere_the_growth_of_the_card_s_use_is_measured(simulate, processes):
    card = simulate(Card({}, unlisted=300 * MIB, initialized=False))
    note_used_bytes(DEVICE)
    card.initialized, card.processes = True, processes
    card.unlisted = 300 * MIB + (0 if 10**7 in processes else 1500 * MIB)
    note_used_bytes(DEVICE)  # after CUDA was opened: nothing to note
    assert device_use(DEVICE) == (1500 * MIB, "card")
    reading = measured().reading()
    assert reading.phases["forward"]["device"] == reading.peak_device_bytes == 1500 * MIB
    reading.phases["inference"] = reading.phases["forward"]
    stage = StageMemory("all", Fidelity(), "uncached", reading)
    forecast = {"predicted_peak_bytes": None, "inference": None}
    assert memory([RankMemory((stage,), reading)], forecast)["device_source"] == "card"


def test_without_either_there_is_no_peak_of_the_device(simulate):
    simulate(Card({}, unlisted=300 * MIB))
    note_used_bytes(DEVICE)
    assert device_use(DEVICE) == (None, None)
    meter = measured()
    assert (meter.reading().peak_device_bytes, meter.reading().device_source) == (None, None)


def test_a_run_on_a_cpu_asks_no_driver(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: pytest.fail("asked"))
    note_used_bytes(torch.device("cpu"))
