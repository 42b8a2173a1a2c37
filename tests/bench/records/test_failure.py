"""The status of a run by its error: what every CUDA library says when its memory allocation fails."""

import pytest
import torch

from bench.records.failure import failure

NCCL = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled cuda error (run with
NCCL_DEBUG=INFO for details), NCCL version 2.27.5
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
"""


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the documentation",
        "CUDA driver error: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "OOM trying to allocate workspace for cublaslt",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        NCCL + "Cuda failure 2 'out of memory'",
        NCCL + "Failed to CUDA calloc 6291456 bytes",
        NCCL + "Failed to CUDA host alloc 4096 bytes",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError, torch.distributed.DistBackendError])
def test_a_failed_allocation_is_out_of_memory(kind, message):
    assert failure(kind(message))[0] == "out-of-memory"


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_SHARED_MEMORY_INSUFFICIENT",
        NCCL + "Cuda failure 999 'unknown error'",
    ],
)
def test_other_errors_of_cuda_are_errors(message):
    assert failure(RuntimeError(message))[0] == "error"
    assert failure(ValueError("out of memory"))[0] == "error"
