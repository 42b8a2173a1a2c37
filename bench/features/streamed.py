"""Exact backpropagation through a backbone a few clips at a time.

A backbone that treats clips independently needs the activations of one pass only. First all clips are encoded
without a graph; head and loss run on the encodings and give a gradient for each. Then each pass is run again
with a graph, and backward from the stored gradient. The sum over the passes is the gradient of ordinary
backpropagation: the chain rule, split at the encodings. Random states are restored before a pass is run
again, so that the same branches are dropped.

The second run may be restricted to some of the clips, drawn anew in each step (``encode_sampled``).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bench.features.encode import ClipPasses, autocast, write_slice
from bench.io.errors import InputError
from bench.models.backbone import Backbone, Encoded
from bench.models.random_state import (
    BatchRows,
    BatchSlice,
    RandomState,
    batch_slice_context,
    current_batch_slice,
    random_state,
    set_random_state,
    uniform,
)


def encode_streamed(
    backbone: Backbone, clips: Tensor, passes: ClipPasses, make_gradients: Callable[[], None] | None = None
) -> tuple[Encoded, Callable[[], None]]:
    """Return the encodings of (N, 3, T, H, W) uint8 clips, and a function to call after loss.backward().

    The encodings are leaves; once each has its gradient, the returned function propagates it through the
    backbone and accumulates the gradients of its parameters. For forecasts: ``make_gradients`` creates the
    gradients that the first pass would leave; one pass then represents all passes after the first.
    """
    assert not backbone.mixes_clips, "check_streamable refuses it"
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
            gradients = [
                None if leaf.grad is None else leaf.grad[first : first + len(part)] for leaf in leaves
            ]
            _propagate(encoded, gradients)
            del encoded, gradients
        set_random_state(afterwards, device)

    return leaves, backward


def _propagate(encoded: Encoded, gradients: Sequence[Tensor | None]) -> None:
    """Run backward from the encodings of a pass; an encoding without a graph or a gradient is left out."""
    pairs = [
        (output, gradient)
        for output, gradient in zip(encoded, gradients, strict=True)
        if output.requires_grad and gradient is not None
    ]
    torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])


@dataclasses.dataclass(frozen=True)
class ClipSample:
    """Which clips of a window get a gradient: a random share of them, without replacement."""

    share: float
    """In (0, 1)."""
    scaled: bool
    """Whether the gradient is divided by the part of the clips that is drawn, which makes it unbiased."""

    def count(self, clips: int) -> int:
        """Return how many of a window's ``clips`` are drawn: at least one."""
        return max(1, round(self.share * clips))

    def factor(self, clips: int) -> float:
        """Return the factor of the drawn clips' gradient."""
        return clips / self.count(clips) if self.scaled else 1.0

    def draw(self, windows: int, clips: int) -> list[int]:
        """Return ascending indices of the drawn clips of all windows, clip c of window w being w * clips + c.

        They depend on the random state and the window's place in the batch, not on how the batch is divided.
        """
        draws = uniform(windows, clips)
        count = self.count(clips)
        if isinstance(draws, FakeTensor):  # a traced step has no values: any clips need the same memory
            chosen = [list(range(count))] * windows
        else:
            chosen = draws.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values.tolist()
        return [window * clips + clip for window, row in enumerate(chosen) for clip in row]


def encode_sampled(
    backbone: Backbone,
    clips: Tensor,
    passes: ClipPasses,
    windows: int,
    sample: ClipSample,
    make_gradients: Callable[[], None] | None = None,
) -> tuple[Encoded, Callable[[], None]]:
    """As ``encode_streamed``, but the gradient of ``sample``'s clips alone is propagated.

    ``clips`` are those of ``windows`` windows in turn. Each pass starts from the same random state and draws
    for all clips of the batch, so that a clip's branches are dropped alike in both of its passes, whichever
    clips share them.
    """
    assert not backbone.mixes_clips, "check_streamable refuses it"
    device, count = backbone.device, len(clips) // windows
    share = current_batch_slice() or BatchSlice(0, windows, 0)
    place = share.scaled(len(clips) // share.count)
    chosen = sample.draw(windows, count)
    factor = sample.factor(count)
    state = random_state(device)

    def encode(part: Tensor, rows: Sequence[int]) -> Encoded:
        set_random_state(state, device)
        whole = BatchRows(tuple(place.before + row for row in rows), place.before + place.count + place.after)
        with batch_slice_context(whole):
            return passes.encode(backbone, part)

    outputs: Encoded | None = None
    first_passes = dataclasses.replace(passes, run_at_most=passes.run_at_most and 1)
    with torch.no_grad():
        for first, part in first_passes.parts(clips):
            encoded = encode(part, range(first, first + len(part)))
            outputs = write_slice(outputs, encoded, first, len(clips))
            del encoded
    assert outputs is not None
    leaves = tuple(part.requires_grad_() for part in outputs)

    def backward() -> None:
        afterwards = random_state(device)
        if make_gradients is not None:
            make_gradients()
        run_at_most = passes.run_at_most if make_gradients is None else 1
        for first in range(0, len(chosen), passes.size)[:run_at_most]:
            rows = chosen[first : first + passes.size]
            encoded = encode(torch.stack([clips[row] for row in rows]), rows)
            gradients = [
                None if leaf.grad is None else torch.stack([leaf.grad[row] for row in rows]).mul_(factor)
                for leaf in leaves
            ]
            _propagate(encoded, gradients)
            del encoded, gradients
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


def check_streamable(
    backbone: Backbone, precision: str = "float32", sample: ClipSample | None = None
) -> None:
    """Raise InputError that names the backbone's class if its clips are not independent."""
    kind = type(backbone).__name__
    if backbone.mixes_clips or clips_mix(backbone, precision):
        if sample is not None:
            raise InputError(
                f"a stage with a backward_share of {sample.share:g} runs single clips again, which is not "
                f"possible for {kind}, in which clips mix; allowed for it is 1"
            )
        raise InputError(
            f"protocol: backward=streamed is not exact for {kind}, in which clips mix; "
            "allowed for it are plain and checkpointed"
        )
