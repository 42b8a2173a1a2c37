"""CUDA's casts of autocast, for steps traced on a CPU.

The lists are those of PyTorch's ``aten/src/ATen/autocast_mode.h`` (versions 2.11 to 2.15) without the
operations that autocast casts alike on a CPU (``autocast_mode.cpp``) and those that only CUDA has.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)

FLOAT32_INPUTS = (
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal"),
    *("rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus"),
    *("layer_norm", "native_layer_norm", "rms_norm", "group_norm", "frobenius_norm.dim", "nuclear_norm"),
    *("nuclear_norm.dim", "cosine_similarity", "dist", "pdist", "renorm", "logsumexp"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d"),
    *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d"),
    *("_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa"),
)
"""Inputs are cast to float32."""

FLOAT32_RESULT = (
    *("softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm"),
    *("linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList"),
)
"""The kernel reads its input as it is and gives float32, unless the call names another type."""

NORMS = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}
"""As ``FLOAT32_RESULT``, by an overload that takes the type."""

LOW_INPUTS = (
    *("_convolution", "convolution", "addmv", "addr", "chain_matmul", "einsum", "linalg_multi_dot", "mv"),
    *("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"),
)
"""Inputs are cast to autocast's lower precision."""

WIDEST_INPUT = (
    *("addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put"),
    *("tensordot", "scatter_add"),
)
"""Inputs are cast to the widest type among them."""

NOT_CAST = (
    *("max_pool3d", "avg_pool3d", "adaptive_max_pool3d", "adaptive_avg_pool3d", "fractional_max_pool2d"),
    *("fractional_max_pool3d", "max_unpool2d", "max_unpool3d", "reflection_pad1d", "reflection_pad2d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "grid_sampler_2d", "grid_sampler_3d"),
    *("cross_entropy_loss", "trace"),
)
"""Autocast casts the inputs to float32 on a CPU only."""


def overload(name: str) -> Any:
    """Return the operation of ``aten`` with a name as in the lists, for example ``pow.Scalar``."""
    packet, _, which = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which or "default")


def cast_on_cuda(name: str) -> bool:
    """Return whether this version of PyTorch casts an operation in autocast of CUDA."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA"))


def _converted(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return an argument with ``convert`` applied to its floating tensors, those in lists included."""
    if isinstance(value, Tensor):
        return convert(value) if value.dtype in (*LOW, torch.float32) else value
    if isinstance(value, (list, tuple)):
        return type(value)(_converted(each, convert) for each in value)
    return value


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


Target = Callable[[tuple[Any, ...]], torch.dtype]


def _cast_inputs(operation: Any, target: Target) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _no_autocast():
            dtype = target((*args, *kwargs.values()))
            named = {name: _converted(value, lambda x: x.to(dtype)) for name, value in kwargs.items()}
            return operation(*(_converted(value, lambda x: x.to(dtype)) for value in args), **named)

    return run


def _float32_result(operation: Any, named: Any) -> Callable[..., Any]:
    """Return ``operation`` by its overload ``named`` (or itself) with a ``dtype`` of float32."""
    place = next(index for index, each in enumerate(named._schema.arguments) if each.name == "dtype")
    # The dispatcher leaves out arguments that equal their defaults, which ``named`` may not have.
    defaults = [each.default_value for each in operation._schema.arguments[:place]]

    def run(*args: Any, **kwargs: Any) -> Any:
        with _no_autocast():
            given = args[place] if len(args) > place else kwargs.get("dtype")
            if given is not None or args[0].dtype not in LOW:
                return operation(*args, **kwargs)
            return named(*args[:place], *defaults[len(args) : place], **{**kwargs, "dtype": torch.float32})

    return run


def _no_autocast() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU))


def _float32(values: tuple[Any, ...]) -> torch.dtype:
    return torch.float32


def _lower(values: tuple[Any, ...]) -> torch.dtype:
    return torch.get_autocast_dtype("cpu")


def _widest(values: tuple[Any, ...]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float32 for tensor in _tensors(values))
    return torch.float32 if wide else _lower(values)


@functools.cache
def follow_cuda_autocast() -> torch.library.Library:
    """Make CPU autocast of this process cast as CUDA's does.

    The registration is valid as long as the caller keeps the returned library object. It cannot be undone.
    """
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # PyTorch 2.11 warns that kernels are replaced.
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel", UserWarning)
        for names, target in (
            (FLOAT32_INPUTS, _float32),
            (LOW_INPUTS, _lower),
            (WIDEST_INPUT, _widest),
        ):
            for name in filter(cast_on_cuda, names):
                library.impl(overload(name), _cast_inputs(overload(name), target), "AutocastCPU")
        for name in FLOAT32_RESULT:
            library.impl(overload(name), _float32_result(overload(name), overload(name)), "AutocastCPU")
        for name, named in NORMS.items():
            library.impl(overload(name), _float32_result(overload(name), overload(named)), "AutocastCPU")
        for name in NOT_CAST:
            library.impl(overload(name), torch.library.fallthrough_kernel, "AutocastCPU")
    return library
