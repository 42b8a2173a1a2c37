"""Exact backpropagation through a backbone a few clips at a time.

A backbone that treats clips independently needs the activations of one pass only. First all clips are encoded
without a graph; head and loss run on the encodings and give a gradient for each. Then each pass is run again
with a graph, and backward from the stored gradient. The sum over the passes is the gradient of ordinary
backpropagation: the chain rule, split at the encodings. Random states are restored before a pass is run
again, so that the same branches are dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.features.encode import ClipPasses, autocast, write_slice
from bench.io.errors import InputError
from bench.models.backbone import Backbone, Encoded
from bench.models.random_state import (
    BatchSlice,
    RandomState,
    batch_slice_context,
    current_batch_slice,
    random_state,
    set_random_state,
)


def encode_streamed(
    backbone: Backbone, clips: Tensor, passes: ClipPasses, make_gradients: Callable[[], None] | None = None
) -> tuple[Encoded, Callable[[], None]]:
    """Return the encodings of (N, 3, T, H, W) uint8 clips, and a function to call after loss.backward().

    The encodings are leaves; once each has its gradient, the returned function propagates it through the
    backbone and accumulates the gradients of its parameters. For forecasts: ``make_gradients`` creates the
    gradients that the first pass would leave; one pass then represents all passes after the first.
    """
    device = backbone.device
    share = current_batch_slice()
    states: list[RandomState] = []
    outputs: Encoded | None = None
    # All passes of this loop have the same peak, so a forecast needs one.
    first_passes = dataclasses.replace(passes, run_at_most=passes.run_at_most and 1)
    with torch.no_grad():
        for first, part in first_passes.parts(clips):
            states.append(random_state(device))
            with batch_slice_context(_share_of_pass(share, first, len(part), len(clips))):
                encoded = passes.encode(backbone, part)
            outputs = write_slice(outputs, encoded, first, len(clips))
            del encoded
    assert outputs is not None
    leaves = tuple(part.requires_grad_() for part in outputs)

    def backward() -> None:
        afterwards = random_state(device)
        if make_gradients is not None:
            make_gradients()
        later_passes = passes if make_gradients is None else first_passes
        for number, (first, part) in enumerate(later_passes.parts(clips)):
            set_random_state(states[min(number, len(states) - 1)], device)
            with batch_slice_context(_share_of_pass(share, first, len(part), len(clips))):
                encoded = passes.encode(backbone, part)
            pairs = [
                (output, leaf.grad[first : first + len(part)])
                for output, leaf in zip(encoded, leaves, strict=True)
                if output.requires_grad and leaf.grad is not None
            ]
            del encoded
            torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
            del pairs
        set_random_state(afterwards, device)

    return leaves, backward


def _share_of_pass(share: BatchSlice | None, first: int, count: int, clips: int) -> BatchSlice | None:
    """Return the batch slice of the clips of a pass, given the slice of the windows of all passes.

    Passes draw in sequence what one pass of all clips would draw; so the first one also draws for the clips
    before the slice, and the last one for those after it.
    """
    if share is None:
        return None
    whole = share.scaled(clips // share.count)
    return BatchSlice(whole.before if first == 0 else 0, count, whole.after if first + count == clips else 0)


@contextlib.contextmanager
def _without_zeros(backbone: Backbone) -> Iterator[None]:
    """Temporarily replace all-zero parameters by small values: zeros would hide the layers before them."""
    zero = [p for p in backbone.parameters() if not torch.count_nonzero(p.detach())]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in zero:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        yield
    finally:
        with torch.no_grad():
            for parameter in zero:
                parameter.zero_()


def clips_mix(backbone: Backbone, precision: str = "float32") -> bool:
    """Return whether the encoding of one clip depends on another clip, in passes of ``precision``.

    Computes the gradient of the first of two clips' encodings with respect to the second clip: it is exactly
    zero if clips are independent. Zero-initialised layers would hide mixing and are filled temporarily. A
    backbone that raises RuntimeError for two clips and not for one mixes them; other errors propagate.
    """
    geometry = backbone.geometry
    device = backbone.device
    size = min(geometry.image_size, 2 * geometry.size_multiple)
    state = random_state(device)
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2, 3, geometry.clip_frames, size, size, generator=generator).to(device)
    clips.requires_grad_()
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()  # a dropped branch would hide mixing
    try:
        with _without_zeros(backbone), torch.enable_grad(), autocast(device, precision):
            encoded = _encode_two(backbone, clips)
            if encoded is None:
                return True
            outputs = [part[0].float().square().sum() for part in encoded if part.requires_grad]
            if not outputs:
                return False
            (gradient,) = torch.autograd.grad(torch.stack(outputs).sum(), clips)
            return bool(torch.count_nonzero(gradient[1]))
    finally:
        set_random_state(state, device)
        for module, mode in modes:
            module.training = mode


def _encode_two(backbone: Backbone, clips: Tensor) -> Encoded | None:
    """Return the encodings of two clips, or None if the backbone can encode one and not two."""
    try:
        return backbone.encode(clips, len(clips))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        try:
            backbone.encode(clips[:1], 1)
        except RuntimeError:
            raise error from None
        return None


def check_streamable(backbone: Backbone, precision: str = "float32") -> None:
    """Raise InputError that names the backbone's class if its clips are not independent."""
    if backbone.mixes_clips or clips_mix(backbone, precision):
        raise InputError(
            f"protocol: backward=streamed is not exact for {type(backbone).__name__}, in which clips mix; "
            "allowed for it are plain and checkpointed"
        )
