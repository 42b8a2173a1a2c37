"""The interface of backbones, so that strategies and training do not depend on the family.

Shape legend: B windows, N clips, T frames of a clip, H W pixels, t feature steps of a clip,
h w cells of the feature grid, D channels, S clips of a window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.io.errors import InputError
from bench.models.backbones.frozen_batch_norm import StoredBatchNorm
from bench.models.geometry import BackboneGeometry as BackboneGeometry  # the interface is imported from here
from bench.models.random_state import checkpoint_contexts

Encoded = tuple[Tensor, ...]
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, StoredBatchNorm)
"""The classes of normalisation layers."""


class Backbone(nn.Module):
    """A network that turns clips into tokens, each independently unless ``mixes_clips``.

    A window is a sequence of clips. It is processed in two parts: ``encode`` processes clips, ``fuse`` the
    encodings of a whole window. A strategy that adapts a backbone changes its modules, or wraps it in another
    ``Backbone`` and may redefine both parts. ``upstream`` returns the module that ``encode`` runs: if none
    of its parameters is trained, the training loop runs ``encode`` without gradient and may cache its
    result, because no later step can change it.

    ``window_clips`` says how many consecutive clips of ``clips`` are one window. It is 1 where clips are
    passed without their window, which happens only if ``mixes_clips`` is false.
    """

    geometry: BackboneGeometry
    clip_dtype: torch.dtype = torch.uint8
    """Type of the values of a clip before ``normalise``."""
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them."""
    mixes_clips: bool = False
    """Whether ``encode`` relates the clips of a window. It is then given whole windows, its result is not
    cached, and the streamed backward is refused."""
    inserted: nn.ModuleDict
    """Modules inserted by ``insert_after_layers``, by the layer's index."""

    def __init__(self) -> None:
        super().__init__()
        self.inserted = nn.ModuleDict()

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of a full-fidelity clip: (3, T, H, W) for a backbone of frames."""
        size = self.geometry.image_size
        return (3, self.geometry.clip_frames, size, size)

    def set_checkpointing(self, wanted: bool) -> None:
        """Set ``checkpointing`` of this backbone and of all backbones that it wraps."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.checkpointing = wanted

    def checkpointed(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Return ``function(*arguments)``; with ``checkpointing``, backward recomputes its activations.

        It may draw random numbers by ``bench.models.random_state.uniform``, which are then drawn again.
        """
        if not (self.checkpointing and torch.is_grad_enabled()):
            return function(*arguments)
        found: Tensor = checkpoint(function, *arguments, use_reentrant=False, context_fn=checkpoint_contexts)
        return found

    def blocks_in_order(self) -> tuple[nn.Module, ...]:
        """Return the sequential modules that hold most of the weights; empty if not known."""
        return ()

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Return the modules of every layer of ``geometry.layer_widths``; a stem belongs to no layer."""
        raise NotImplementedError(f"{type(self).__name__} does not say which modules its layers are")

    def norm_modules(self) -> tuple[nn.Module, ...]:
        """Return the normalisation layers."""
        return tuple(module for module in self.modules() if isinstance(module, NORMS))

    def token_blocks(self) -> nn.ModuleList | None:
        """Return the transformer's blocks, whose items may be replaced; None for other networks.

        A block maps ``(tokens, draws)``, tokens (N, L, D), to tokens (N, L, D). ``draws`` is for its own
        stochastic depth, or None. A third argument, if given, maps the tokens between attention and MLP.
        """
        return None

    def embed(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a transformer's tokens (N, t, h, w, D) before its first block, with their positions.

        The second value are the blocks' draws (N, depth, 2) of stochastic depth, or None if no path is
        dropped. For strategies that run the items of ``token_blocks`` themselves.
        """
        raise NotImplementedError(f"{type(self).__name__} has no tokens before its blocks")

    def insert_after_layers(
        self, make: Callable[[int], nn.Module], layers: Sequence[int] | None = None, *, mixes: bool = False
    ) -> None:
        """Insert a module after each of ``layers`` (all by default), ``make(width)`` for a layer's channels.

        A module maps ``(tokens, window_clips)``, tokens (N, t, h, w, width), to tokens of the same shape. It
        runs inside its layer's activation checkpoint. ``mixes`` says whether it relates clips of a window.
        Its parameters are named ``backbone.inserted.<layer>.<name>``. Indices below 0 count from the end.
        Raises InputError for a layer that does not exist or that already has a module.
        """
        widths = self.geometry.layer_widths
        count = len(widths)
        for index in range(count) if layers is None else layers:
            if not -count <= index < count:
                raise InputError(f"insert_after_layers: layer {index}, allowed are {-count} to {count - 1}")
            name = str(index % count)
            if name in self.inserted:
                raise InputError(f"insert_after_layers: a module was inserted after layer {name} before")
            self.inserted[name] = make(widths[index])
        self.mixes_clips = self.mixes_clips or mixes

    def after_layer(self, index: int, tokens: Tensor, window_clips: int) -> Tensor:
        """Return tokens (N, t, h, w, D) after the module inserted after the layer ``index``.

        Raises InputError if the module changes their shape.
        """
        changed: Tensor = self.inserted[str(index)](tokens, window_clips)
        if changed.shape != tokens.shape:
            raise InputError(
                f"{type(self.inserted[str(index)]).__name__}, inserted after layer {index}, changes the "
                f"shape of tokens from {tuple(tokens.shape)} to {tuple(changed.shape)}; it must stay the same"
            )
        return changed

    def tokens(self, clips: Tensor, window_clips: int = 1) -> Tensor:
        """Return (N, t, h, w, D): the tokens after the last layer, before any final norm.

        ``clips`` is (N, 3, T, H, W), already normalised.
        """
        return self.layers(clips, (len(self.geometry.layer_widths) - 1,), window_clips)[0]

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return the outputs of the layers ``taps`` (ascending indices), each (N, t, h_i, w_i, D_i).

        Every output has the t of the last layer: a family whose early layers have more steps pools them.
        """
        raise NotImplementedError

    def upstream(self) -> nn.Module:
        """Return the module whose parameters ``encode`` depends on."""
        return self

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return per-clip encodings of (N, 3, T, H, W); the first axis of each is N."""
        return (self.tokens(clips, window_clips).mean(dim=(2, 3)),)

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """Return features (B, D, S*t) from encodings whose first two axes are (B, S).

        ``mask`` is (B, S*t) bool, true where a step shows the video and not padding.
        """
        (pooled,) = encoded
        return pooled.flatten(1, 2).transpose(1, 2)

    def fixed(self) -> dict[str, Tensor]:
        """Return constants that are computed and that some checkpoints contain, by the checkpoints' names."""
        return {}

    def learned(self) -> dict[str, Any]:
        """Return statistics of a trained backbone as JSON values, for the run's record."""
        return {}

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return features (B, D, S*t) of windows given as (B, S, 3, T, H, W), normalised."""
        encoded = self.encode(clips.flatten(0, 1), clips.shape[1])
        encoded = tuple(part.unflatten(0, clips.shape[:2]) for part in encoded)
        if mask is None:
            steps = clips.shape[1] * encoded[0].shape[2]
            mask = torch.ones(clips.shape[0], steps, dtype=torch.bool, device=clips.device)
        return self.fuse(encoded, mask)

    def for_inference(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which whole videos are processed after training: by default, no change."""
        return contextlib.nullcontext()

    def normalise(self, clips: Tensor) -> Tensor:
        """Return float clips of (..., 3, T, H, W) values from 0 to 255, normalised per colour channel."""
        mean = torch.tensor(self.geometry.mean, device=clips.device).view(3, 1, 1, 1) * 255
        std = torch.tensor(self.geometry.std, device=clips.device).view(3, 1, 1, 1) * 255
        # The difference is a new tensor; dividing it in place needs one copy of the clips, not two.
        return torch.sub(clips, mean).div_(std)


class WrappedBackbone(Backbone):
    """A backbone around another one, ``inner``, with the same input and, unless redefined, the same output.

    A strategy with modules beside a frozen backbone redefines ``upstream`` to return ``inner``, ``encode`` to
    run it without a graph, and ``fuse`` to run its own modules on the encodings of whole windows.
    """

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner = inner
        self.geometry = inner.geometry
        self.clip_dtype = inner.clip_dtype
        self.mixes_clips = inner.mixes_clips

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.inner.device

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of a full-fidelity clip."""
        return self.inner.clip_shape

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        return self.inner.layer_modules()

    def embed(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.inner.embed(clips)

    def token_blocks(self) -> nn.ModuleList | None:
        return self.inner.token_blocks()

    def insert_after_layers(
        self, make: Callable[[int], nn.Module], layers: Sequence[int] | None = None, *, mixes: bool = False
    ) -> None:
        """Insert modules into the inner backbone, whose layers run (``backbone.inner.inserted...``)."""
        self.inner.insert_after_layers(make, layers, mixes=mixes)
        self.mixes_clips = self.inner.mixes_clips

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        return self.inner.layers(clips, taps, window_clips)

    def tokens(self, clips: Tensor, window_clips: int = 1) -> Tensor:
        return self.inner.tokens(clips, window_clips)

    @torch.no_grad()
    def tapped_layers(self, clips: Tensor, taps: Sequence[int], window_clips: int) -> list[Tensor]:
        """Return the outputs of the layers ``taps`` and, unless it is one of them, of the last layer.

        No graph is recorded: no gradient flows through the inner backbone, at whatever depth it is tapped.
        """
        last = len(self.geometry.layer_widths) - 1
        wanted = taps if taps[-1] == last else (*taps, last)
        return self.inner.layers(clips, wanted, window_clips)

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        return self.inner.encode(clips, window_clips)

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        return self.inner.fuse(encoded, mask)

    def for_inference(self) -> contextlib.AbstractContextManager[None]:
        return self.inner.for_inference()

    def normalise(self, clips: Tensor) -> Tensor:
        return self.inner.normalise(clips)
