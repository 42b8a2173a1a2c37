"""Check that passes of a few clips, with and without checkpointing, give an adapted backbone's gradients."""

import torch

from bench.features.encode import ClipPasses
from bench.features.streamed import check_streamable, encode_streamed


def check_streamed_gradients(adapted, trained, checkpointing, rtol):
    """Compare the gradients of ``trained`` in passes of two clips with those of one plain pass of five."""
    geometry = adapted.geometry
    size, steps = geometry.image_size, geometry.steps_per_clip
    pixels = torch.randint(0, 256, (5, 3, geometry.clip_frames, size, size), dtype=torch.uint8)
    weights = torch.randn(5, steps, geometry.width)
    (encoded,) = ClipPasses(5).encode(adapted, pixels)
    plain = torch.autograd.grad((encoded * weights).sum(), trained)
    check_streamable(adapted)
    adapted.set_checkpointing(checkpointing)
    (leaf,), finish = encode_streamed(adapted, pixels, ClipPasses(2))
    (leaf * weights).sum().backward()
    finish()
    for parameter, expected in zip(trained, plain, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=rtol, atol=1e-6)
