"""The names of attention's kernels, from the profiler's events."""

import torch
import torch.nn.functional as F

from bench.measure.attention import attention_kernels, attention_names


def test_operations_of_the_host_and_kernels_of_the_card_are_told_from_others():
    events = [
        ("aten::scaled_dot_product_attention", False),
        ("aten::_scaled_dot_product_cudnn_attention", False),
        ("autograd::engine::evaluate_function: ScaledDotProductCudnnAttentionBackward0", False),
        ("aten::mm", False),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<96, 128>, false>(Params)", True),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x64", True),
        ("fmha_cutlassB_bf16_aligned_64x64_k96_sm80(PyTorchMemEffAttention::Params)", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", True),
    ]
    assert attention_names(events) == {
        "aten::_scaled_dot_product_cudnn_attention",
        "pytorch_flash::flash_fwd_kernel",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x64",
        "fmha_cutlassB_bf16_aligned_64x64_k96_sm80",
    }


def test_on_a_cpu_the_operations_of_both_passes_are_seen():
    query = torch.randn(1, 2, 8, 16, requires_grad=True)

    def step():
        F.scaled_dot_product_attention(query, query, query).sum().backward()

    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert attention_kernels(step, torch.device("cpu")) == {name, f"{name}_backward"}
    assert attention_kernels(lambda: query @ query.transpose(2, 3), torch.device("cpu")) == set()
