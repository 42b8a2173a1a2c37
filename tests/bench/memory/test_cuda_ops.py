"""What CUDA does otherwise than a CPU: the size of cuBLAS workspaces, and the casts of autocast."""

import pytest

from bench.memory.cuda_ops import workspace_bytes


@pytest.mark.parametrize(
    ("capability", "config", "size"),
    [
        ((7, 5), None, 8320 << 10),
        ((8, 9), None, 8320 << 10),
        ((9, 0), None, 32 << 20),
        ((12, 0), None, 32 << 20),
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
