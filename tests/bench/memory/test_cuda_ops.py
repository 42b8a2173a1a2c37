"""Scratch memory of CUDA: the size of cuBLAS workspaces, and who holds them."""

import pytest
import torch

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.memory.cuda_ops import keeps_workspaces, workspace_bytes
from bench.plan.forecast import Target, TraceSettings, forecast
from strategies import build_strategy


@pytest.mark.parametrize(
    ("capability", "config", "size"),
    [
        ((7, 5), None, 8320 << 10),
        ((8, 9), None, 8320 << 10),
        ((9, 0), None, 32 << 20),
        (None, None, 32 << 20),
        ((9, 0), ":4096:8", 32 << 20),
        ((9, 0), ":16:8", 128 << 10),
        ((8, 0), ":4096:2:16:8", 8320 << 10),
        ((8, 0), "none", 8320 << 10),
    ],
)
def test_a_workspace_has_the_size_that_pytorch_gives_it(monkeypatch, capability, config, size):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", config)
    assert workspace_bytes(capability) == size


@pytest.mark.parametrize(
    ("version", "large"), [("2.11.0", {9}), ("2.12.1", {9, 10, 12}), ("2.14.0+cu130", {9, 10, 11, 12})]
)
def test_newer_versions_give_more_cards_a_large_workspace(monkeypatch, version, large):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "__version__", version)
    assert {major for major in range(7, 13) if workspace_bytes((major, 0)) == 32 << 20} == large


def test_workspaces_are_kept_before_pytorch_2_15(monkeypatch):
    monkeypatch.delenv("TORCH_CUBLAS_WORKSPACE_CACHE", raising=False)
    for version, kept in (("2.11.0", True), ("2.14.1+cu130", True), ("2.15.0", False)):
        monkeypatch.setattr(torch, "__version__", version)
        assert keeps_workspaces() == kept
    monkeypatch.setenv("TORCH_CUBLAS_WORKSPACE_CACHE", "1")
    assert keeps_workspaces()


def test_threads_hold_a_workspace_each_or_products_have_one():
    protocol = override(default_protocol("vit-t", "cuda"), {"window_clips": "4"})
    strategy = build_strategy("full-finetune")

    def peaks(**target):
        settings = TraceSettings(target=Target(**target))
        [stage] = forecast("vit-t", strategy, protocol, settings).stages
        return stage.peak.phases

    nothing = peaks(workspace_bytes=0)
    kept = peaks(workspace_bytes=2**25, keeps_workspaces=True)
    assert {kept[phase] - nothing[phase] for phase in kept} == {2**26}
    allocated = peaks(workspace_bytes=2**32, keeps_workspaces=False)
    # No product of matrices in loading and in the optimizer; with 4 GiB it is the peak of the others.
    more = {phase: allocated[phase] - nothing[phase] for phase in allocated}
    assert more["load"] == more["optimizer"] == 0
    assert 2**31 < more["backward"] < 2**32
    # Of linear layers cuBLASLt adds the bias; attention of the head is computed by products.
    assert more["forward"] > 2**31
