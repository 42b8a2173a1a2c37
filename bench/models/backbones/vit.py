"""Video vision transformers: VideoMAE and VideoMAEv2 encoders, and the embedded ``vit-t``.

Parameter names and shapes are those of the VideoMAE fine-tuning models (Tong et al., NeurIPS 2022; Wang et
al., CVPR 2023), so that their checkpoints load without renaming. Joint space-time attention inside one clip,
no class token, no final norm: the output is the tokens of the last block.

Shape legend: N clips, T frames, H W pixels, t h w the token grid, L = t*h*w tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, BackboneGeometry
from bench.models.backbones.vit_config import ViTConfig
from bench.models.backbones.vit_stems import DifferenceStem, LinearStem
from bench.models.cpu_kernels import apply_linear, linear
from bench.models.position_encoding import Grid, flat_positions, grid_positions, interpolated_positions
from bench.models.random_state import uniform

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit


class Attention(nn.Module):
    """Multi-head self-attention with biases for queries and values and none for keys.

    ``qkv`` may be replaced by any module that maps (N, L, D) to (N, L, 3 * D). After ``split_projections``
    there are three linear maps ``q``, ``k`` and ``v`` in its place, which may be replaced as well.
    """

    q: nn.Module
    k: nn.Module
    v: nn.Module

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (N, L, D) of (N, L, D)."""
        query, key, value = self.project(tokens)
        attended = F.scaled_dot_product_attention(query, key, value)
        return apply_linear(self.proj, attended.transpose(1, 2).flatten(2))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (N, heads, L, D / heads), of tokens (N, L, D)."""
        if hasattr(self, "q"):
            query, key, value = (
                layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
        else:
            projected = self._projected(tokens).reshape(*tokens.shape[:2], 3, self.heads, -1)
            query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _projected(self, tokens: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        if type(self.qkv) is nn.Linear and not (self.qkv._forward_hooks or self.qkv._forward_pre_hooks):
            return linear(tokens, self.qkv.weight, bias)  # the bias is added in the product
        projected: Tensor = self.qkv(tokens)
        return projected + bias.to(projected.dtype)

    def split_projections(self) -> None:
        """Replace ``qkv`` and its biases by the linear maps ``q``, ``k`` and ``v`` with the same values."""
        width = self.proj.in_features
        weights = self.qkv.weight.detach().clone().split(width)
        biases = (self.q_bias, None, self.v_bias)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            layer = nn.Linear(width, width, bias=bias is not None, device="meta")
            layer.weight = nn.Parameter(weight)
            layer.register_parameter("bias", bias)
            self.add_module(name, layer)
        del self.qkv, self.q_bias, self.v_bias


def _unchanged(tokens: Tensor) -> Tensor:
    return tokens


def _mixed(mlp: nn.Module, tokens: Tensor) -> Tensor:
    """Return ``mlp(tokens)``, with its linear layers by ``apply_linear``."""
    if type(mlp) is not Mlp or mlp._forward_hooks or mlp._forward_pre_hooks:
        changed: Tensor = mlp(tokens)
        return changed
    hidden = mlp.norm(mlp.drop1(mlp.act(apply_linear(mlp.fc1, tokens))))
    dropped: Tensor = mlp.drop2(apply_linear(mlp.fc2, hidden))
    return dropped


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config.width, round(config.width * config.mlp_ratio), act_layer=nn.GELU)
        self.keep = 1 - drop_path

    def forward(
        self,
        tokens: Tensor,
        draws: Tensor | None = None,
        between: Callable[[Tensor], Tensor] = _unchanged,
    ) -> Tensor:
        """Return (N, L, D) of (N, L, D).

        ``draws`` is (N, 2) in [0, 1): a clip's branch is kept if its draw is below the keep probability; kept
        branches are scaled up to compensate (stochastic depth, Huang et al., ECCV 2016). ``between`` maps the
        tokens between attention and MLP.
        """
        attended = self.attn(self.norm1(tokens))
        tokens = between(tokens + self._drop_path(attended, draws, 0))
        mixed = _mixed(self.mlp, self.norm2(tokens))
        return tokens + self._drop_path(mixed, draws, 1)

    def _drop_path(self, branch: Tensor, draws: Tensor | None, column: int) -> Tensor:
        if draws is None or self.keep == 1:
            return branch
        return branch * ((draws[:, column] < self.keep).to(branch.dtype) / self.keep)[:, None, None]


class VideoViT(Backbone):
    """The encoder: a stem, fixed positions, blocks. ``checkpointing`` may be changed later."""

    load_audit: LoadAudit | None = None

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.checkpointing = config.checkpointing
        self.patch_embed = LinearStem(config) if config.stem == "linear" else DifferenceStem(config)
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            Block(config, config.drop_path * index / last) for index in range(config.depth)
        )
        self.geometry = BackboneGeometry(
            clip_frames=config.clip_frames,
            frames_per_step=config.tubelet_size,
            image_size=config.image_size,
            size_multiple=config.patch_size,
            width=config.width,
            layer_widths=(config.width,) * config.depth,
            mean=config.mean,
            std=config.std,
        )
        self.apply(_initialise)

    def blocks_in_order(self) -> tuple[nn.Module, ...]:
        return tuple(self.blocks)

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        return tuple((block,) for block in self.blocks)

    def token_blocks(self) -> nn.ModuleList | None:
        return self.blocks

    def embed(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        self._check_size(clips)
        tokens = self._with_positions(self.patch_embed(clips))
        return tokens, self._drop_path_draws(tokens)

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return the outputs (N, t, h, w, D) of the blocks ``taps``; later blocks do not run.

        T may be any multiple of the tubelet. Pixels beyond the last whole patch are not seen, as in OpenTAD's
        ``vit_adapter.py``: 160 pixels are 11 patches of 14.
        """
        self._check_taps(taps)
        self._check_size(clips)
        embedded = self.patch_embed(clips)
        grid = (embedded.shape[1], embedded.shape[2], embedded.shape[3])
        tokens = self._with_positions(embedded).flatten(1, 3)
        draws = self._drop_path_draws(tokens)
        outputs = []
        for index in range(max(taps) + 1):
            drawn = None if draws is None else draws[:, index]
            tokens = self.checkpointed(self._layer, index, tokens, drawn, grid, window_clips)
            if index in taps:
                outputs.append(tokens.reshape(-1, *grid, self.config.width))
        return outputs

    def _layer(
        self, index: int, tokens: Tensor, drawn: Tensor | None, grid: Grid, window_clips: int
    ) -> Tensor:
        """Return tokens (N, L, D) after a block and the module inserted after it."""
        tokens = self.blocks[index](tokens, drawn)
        if str(index) in self.inserted:
            cells = tokens.unflatten(1, grid)
            tokens = self.after_layer(index, cells, window_clips).flatten(1, 3)
        return tokens

    def _drop_path_draws(self, tokens: Tensor) -> Tensor | None:
        """Return (N, depth, 2) uniform draws, or None if nothing is dropped.

        Drawn clip by clip from the host's generator, so that they depend neither on the device nor on the
        number of clips per pass: a window's gradient is then the same in one pass or in several.
        """
        if not self.training or self.config.drop_path == 0:
            return None
        return uniform(tokens.shape[0], self.config.depth, 2).to(tokens.device)

    def _with_positions(self, embedded: Tensor) -> Tensor:
        """Return (N, t, h, w, D) of the same. Positions take 1 % of the blocks' time: no state is kept."""
        grid = (embedded.shape[1], embedded.shape[2], embedded.shape[3])
        positions = self._positions(grid, embedded.device).to(embedded.dtype)
        tokens: Tensor = (embedded.flatten(1, 3) + positions).unflatten(1, grid)
        return tokens

    def _positions(self, grid: Grid, device: torch.device) -> Tensor:
        config = self.config
        if config.positions == "grid":
            full = config.grid(config.image_size, config.clip_frames)
            table = grid_positions(grid, full, config.width, device)
        elif config.interpolated:
            table = interpolated_positions(grid, config.pretrained_grid, config.width, device)
        else:
            table = flat_positions(grid, config.width, device)
        return table * config.position_scale

    def fixed(self) -> dict[str, Tensor]:
        config = self.config
        if config.positions == "grid":
            return {}
        return {"pos_embed": flat_positions(config.pretrained_grid, config.width, torch.device("cpu"))[None]}

    def _check_size(self, clips: Tensor) -> None:
        config = self.config
        frames, height, width = clips.shape[2:]
        size, whole = config.patch_size, config.stem == "linear"
        wrong = any(side < size or (side % size and not whole) for side in (height, width))
        if wrong or frames % config.tubelet_size:
            raise InputError(
                f"clips of {frames} frames of {height} x {width} pixels: allowed are multiples of "
                f"{config.tubelet_size} frames and {'at least' if whole else 'multiples of'} {size} pixels"
            )

    def _check_taps(self, taps: Sequence[int]) -> None:
        depth = self.config.depth
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= depth:
            raise InputError(f"taps {tuple(taps)}: allowed are ascending indices from 0 to {depth - 1}")


def _initialise(module: nn.Module) -> None:
    # As VideoMAE: linear maps from a normal of 0.02, norms at 1 and 0, convolutions by torch's default.
    # VideoMAE truncates at 2, a hundred deviations, which has no effect; truncation cannot be traced.
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
