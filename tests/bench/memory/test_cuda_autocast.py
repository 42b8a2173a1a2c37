"""Forecasts cast as autocast of CUDA does: every operation of its lists, on fake tensors of a CPU."""

import subprocess
import sys

import pytest
import torch

from bench.memory.cuda_autocast import (
    FLOAT32_INPUTS,
    FLOAT32_RESULT,
    LOW_INPUTS,
    NORMS,
    NOT_CAST,
    WIDEST_INPUT,
    cast_on_cuda,
)

# Calls by operation. V, M, C, I and D are tensors of 1 to 5 axes, N are class indices; W stands for float32.
UNARY = "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan softplus"
FLOAT32 = {
    **{name: f"{name}(M)" for name in UNARY.split()},
    "pow.Tensor_Scalar": "pow(M, 2)",
    "pow.Tensor_Tensor": "pow(M, M)",
    "pow.Scalar": "pow(2, M)",
    "layer_norm": "layer_norm(M, [6])",
    "native_layer_norm": "native_layer_norm(M, [6], None, None, 1e-5)",
    "rms_norm": "rms_norm(M, [6])",
    "group_norm": "group_norm(C, 2)",
    "frobenius_norm.dim": "frobenius_norm(M, [1])",
    "nuclear_norm": "nuclear_norm(M)",
    "nuclear_norm.dim": "nuclear_norm(M, [0, 1])",
    "cosine_similarity": "cosine_similarity(M, M)",
    "poisson_nll_loss": "poisson_nll_loss(M, M, True, False, 1e-8, 1)",
    "cosine_embedding_loss": "cosine_embedding_loss(M, M, V)",
    "nll_loss": "nll_loss(M, N)",
    "nll_loss2d": "nll_loss2d(I, N[:2, None, None].expand(2, 6, 6))",
    "hinge_embedding_loss": "hinge_embedding_loss(M, M)",
    "kl_div": "kl_div(M, M)",
    "l1_loss": "l1_loss(M, M)",
    "smooth_l1_loss": "smooth_l1_loss(M, M)",
    "huber_loss": "huber_loss(M, M)",
    "mse_loss": "mse_loss(M, M)",
    "margin_ranking_loss": "margin_ranking_loss(V, V, V)",
    "multilabel_margin_loss": "multilabel_margin_loss(M, N[:, None].expand(6, 6))",
    "soft_margin_loss": "soft_margin_loss(M, M)",
    "triplet_margin_loss": "triplet_margin_loss(M, M, M)",
    "multi_margin_loss": "multi_margin_loss(M, N)",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits(M, M)",
    "dist": "dist(M, M)",
    "pdist": "pdist(M)",
    "cdist": "cdist(M, M)",
    "renorm": "renorm(M, 2, 0, 1)",
    "logsumexp": "logsumexp(M, [1])",
    **{f"upsample_nearest{n}d": f"upsample_nearest{n}d(U[{n}], [9] * {n})" for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": f"_upsample_nearest_exact{n}d(U[{n}], [9] * {n})" for n in (1, 2, 3)},
    "upsample_linear1d": "upsample_linear1d(C, [9], False)",
    "upsample_bilinear2d": "upsample_bilinear2d(I, [9, 9], False)",
    "_upsample_bilinear2d_aa": "_upsample_bilinear2d_aa(I, [9, 9], False)",
    "upsample_trilinear3d": "upsample_trilinear3d(D, [9, 9, 9], False)",
    "upsample_bicubic2d": "upsample_bicubic2d(I, [9, 9], False)",
    "_upsample_bicubic2d_aa": "_upsample_bicubic2d_aa(I, [9, 9], False)",
    "prod": "prod(M)",
    "prod.dim_int": "prod(M, 1)",
    "softmax.int": "softmax(M, 1)",
    "log_softmax.int": "log_softmax(M, 1)",
    "cumprod": "cumprod(M, 1)",
    "cumsum": "cumsum(M, 1)",
    "linalg_vector_norm": "linalg_vector_norm(M, 2, None)",
    "linalg_matrix_norm": "linalg_matrix_norm(M, 1)",
    "linalg_matrix_norm.str_ord": "linalg_matrix_norm(M)",
    "sum": "sum(M)",
    "sum.dim_IntList": "sum(M, None)",
    "norm.Scalar": "norm(M, 2)",
    "norm.ScalarOpt_dim": "norm(M, 2, [1])",
}
LOW = {
    "_convolution": "_convolution(W(I), W(I), None, [1], [0], [1], False, [0], 1, False, False, True, True)",
    "convolution": "convolution(W(I), W(I), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)",
    "addmv": "addmv(W(V), W(M), W(V))",
    "addr": "addr(W(M), W(V), W(V))",
    "chain_matmul": "chain_matmul([W(M), W(M), W(M)])",
    "einsum": "einsum('ij,jk->ik', [W(M), W(M)])",
    "linalg_multi_dot": "linalg_multi_dot([W(M), W(M), W(M)])",
    "mv": "mv(W(M), W(V))",
    "gru_cell": "gru_cell(W(M), W(M), W(M).repeat(3, 1), W(M).repeat(3, 1))",
    "lstm_cell": "lstm_cell(W(M), [W(M), W(M)], W(M).repeat(4, 1), W(M).repeat(4, 1))",
    "rnn_relu_cell": "rnn_relu_cell(W(M), W(M), W(M), W(M))",
    "rnn_tanh_cell": "rnn_tanh_cell(W(M), W(M), W(M), W(M))",
}
WIDEST = {
    "addcdiv": "addcdiv(M, M, T(M))",
    "addcmul": "addcmul(M, M, T(M))",
    "atan2": "atan2(M, T(M))",
    "bilinear": "bilinear(M, T(M), C[:1].expand(6, 6, 6), None)",
    "cross": "cross(M[:, :3], T(M[:, :3]))",
    "dot": "dot(V, T(V))",
    "vdot": "vdot(V, T(V))",
    "grid_sampler": "grid_sampler(I, T(I.permute(0, 2, 3, 1)[..., :2]), 0, 0, False)",
    "index_put": "index_put(M, [N], T(M))",
    "tensordot": "tensordot(M, T(M), [1], [0])",
    "scatter_add": "scatter_add(M, 0, N[:, None].expand(6, 6), T(M))",
}
SAME = {
    "max_pool3d": "max_pool3d(D, [2])",
    "avg_pool3d": "avg_pool3d(D, [2])",
    "adaptive_max_pool3d": "adaptive_max_pool3d(D, [1, 1, 1])",
    "adaptive_avg_pool3d": "adaptive_avg_pool3d(D, [1, 1, 1])",
    "fractional_max_pool2d": "fractional_max_pool2d(I, [2, 2], [3, 3], torch.rand(2, 6, 2).bfloat16())",
    "fractional_max_pool3d": "fractional_max_pool3d(D, [2] * 3, [3] * 3, torch.rand(2, 6, 3).bfloat16())",
    "max_unpool2d": "max_unpool2d(I, torch.zeros(2, 6, 6, 6, dtype=torch.int64), [6, 6])",
    "max_unpool3d": "max_unpool3d(D, torch.zeros_like(D, dtype=torch.int64), [6] * 3, [1] * 3, [0] * 3)",
    **{f"reflection_pad{n}d": f"reflection_pad{n}d(U[{n}], [1, 1] * {n})" for n in (1, 2)},
    **{f"replication_pad{n}d": f"replication_pad{n}d(U[{n}], [1, 1] * {n})" for n in (1, 2, 3)},
    "grid_sampler_2d": "grid_sampler_2d(I, I.permute(0, 2, 3, 1)[..., :2], 0, 0, False)",
    "grid_sampler_3d": "grid_sampler_3d(D, D.permute(0, 2, 3, 4, 1)[..., :3], 0, 0, False)",
    "trace": "trace(M)",
}
CALLS = {
    **{name: (call, "float32") for name, call in FLOAT32.items()},
    **{name: (call, "bfloat16") for name, call in LOW.items()},
    **{
        f"{name} of bfloat16": (f"(T := lambda x: x) and aten.{call}", "bfloat16")
        for name, call in WIDEST.items()
    },
    **{f"{name} with float32": (f"(T := W) and aten.{call}", "float32") for name, call in WIDEST.items()},
    **{name: (call, "bfloat16") for name, call in SAME.items()},
    # A type that the call names stays, and so do double and integers.
    "sum to bfloat16": ("sum(M, dtype=torch.bfloat16)", "bfloat16"),
    "softmax to bfloat16": ("softmax(M, 1, torch.bfloat16)", "bfloat16"),
    "sum of double": ("sum(M.double())", "float64"),
    "exp of double": ("exp(M.double())", "float64"),
    "sum of integers": ("sum(N)", "int64"),
    "norm of double": ("norm(M.double(), 2)", "float64"),
    # Not by way of the cast of cross_entropy_loss: its log_softmax gives float32.
    "cross_entropy_loss": ("cross_entropy_loss(M, N)", "float32"),
}
SCRIPT = """
import sys, json, warnings
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from bench.memory.cuda_autocast import follow_cuda_autocast
warnings.simplefilter("error")
follow_cuda_autocast()
warnings.simplefilter("default")
aten, found = torch.ops.aten, {}
W = lambda x: x.float()
with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
    V, M = torch.rand(6).bfloat16(), torch.rand(6, 6).bfloat16()
    C, I, D = (torch.rand(2, *[6] * axes).bfloat16() for axes in (2, 3, 4))
    N, U = torch.zeros(6, dtype=torch.int64), {1: C, 2: I, 3: D}
    for name, (call, _) in json.load(sys.stdin).items():
        try:
            result = eval(call if "aten." in call else "aten." + call)
            result = result[0] if isinstance(result, (tuple, list)) else result
            found[name] = str(result.dtype).removeprefix("torch.")
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """The type of every call's result, in a process of its own: the casts cannot be undone."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(CALLS), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_autocast_of_a_cpu_casts_as_that_of_cuda(found, name):
    if name == "rms_norm" and not cast_on_cuda(name):  # PyTorch 2.11
        assert found[name] == "bfloat16"
    else:
        assert found[name] == CALLS[name][1]


def test_every_operation_of_cuda_is_known():
    registered = torch._C._dispatch_get_registrations_for_dispatch_key
    on_cuda, on_cpu = (
        {name.removeprefix("aten::") for name in registered(f"Autocast{key}") if name.startswith("aten::")}
        for key in ("CUDA", "CPU")
    )
    listed = {*FLOAT32_INPUTS, *FLOAT32_RESULT, *NORMS, *LOW_INPUTS, *WIDEST_INPUT}
    named = {name for name in on_cuda if "dimname" in name.lower() or "names" in name}
    assert on_cuda - on_cpu - listed - ONLY_CUDA - named == set()
    assert listed - on_cuda <= {"rms_norm"}
    assert {*listed, *NOT_CAST} <= {name.partition(" ")[0] for name in CALLS}


ONLY_CUDA = {
    *("cudnn_convolution", "cudnn_convolution_transpose", "_cudnn_rnn", "_thnn_fused_gru_cell"),
    *("_thnn_fused_lstm_cell", "_scaled_dot_product_flash_attention"),
}
"""Operations that a CPU does not have."""
