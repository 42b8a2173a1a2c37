"""Render the pictures of a scene. Uses NumPy only, because a worker must start fast.

The pictures are the same function of the scene on every processor. Results of library functions (normal
values, sines) are quantized, see `tracks.quantize`; all other operations are exact in integers or defined by
IEEE 754 to the last bit. Sums over many values are sums of integers: those of floats depend on their order.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from datasets.miniature.scenes import Scene, Sprite
from datasets.miniature.tracks import SHAPE_BITS, Track, quantize

Field = NDArray[np.float32]
Pictures = NDArray[np.uint8]

CHUNK_FRAMES = 64
TEXTURE_WIDTHS = 2.5
"""Width of a texture in picture widths; it is periodic."""
TEXTURE_CONTRAST = 22.0
ROUGH_LAYERS = ((6, 0.5), (16, 0.5), (40, 0.6), (80, 0.35))
CALM_LAYERS = ((4, 1.0), (8, 0.3))
DRIFTING_LAYERS = ((10, 1.0), (24, 0.7))
NORMAL_BITS = 16
GRAIN_BITS = 10
"""Quantization of normal values: multiples of 2**-16 in textures, of 2**-10 in the grain of each picture."""
REACH = 1.3
"""Largest distance of an outline from its sprite's centre, in radii."""


def render(scene: Scene, size: int) -> Iterator[Pictures]:
    """Yield the scene's frames in chunks, uint8 (n, size, size, 3), RGB."""
    for pictures in render_exactly(scene, size):
        yield np.clip(pictures + 0.5, 0, 255).astype(np.uint8)


def render_exactly(scene: Scene, size: int) -> Iterator[Field]:
    """Yield the frames before rounding to integers: float32, the same bits on every processor."""
    random = np.random.default_rng(scene.seed)
    extent = int(TEXTURE_WIDTHS * size)
    near = _texture(random, extent, CALM_LAYERS if scene.calm else ROUGH_LAYERS) * TEXTURE_CONTRAST
    near += np.array(scene.background, dtype=np.float32)
    far = None if scene.calm else _texture(random, extent, DRIFTING_LAYERS) * (TEXTURE_CONTRAST * 0.5)
    for begin in range(0, scene.frames, CHUNK_FRAMES):
        frames = range(begin, min(begin + CHUNK_FRAMES, scene.frames))
        pictures = np.empty((len(frames), size, size, 3), dtype=np.float32)
        for row, frame in enumerate(frames):
            pictures[row] = _crop(near, scene.pan[frame], size)
            if far is not None:
                pictures[row] += _crop(far, scene.drift[frame], size)
        for sprite, track in zip(scene.sprites, scene.tracks, strict=True):
            _paint(pictures, sprite, track, slice(frames.start, frames.stop))
        shape = (len(frames), size // 2, 1, size // 2, 1, 1)
        grain = quantize(random.standard_normal(shape), GRAIN_BITS).astype(np.float32)
        blocks = pictures.reshape(len(frames), size // 2, 2, size // 2, 2, 3)
        blocks += scene.noise * grain
        yield pictures


def _texture(random: np.random.Generator, extent: int, layers: tuple[tuple[int, float], ...]) -> Field:
    """Return noise of several scales, (extent, extent, 3), of mean 0 and deviation 1; mostly grey."""
    total = np.zeros((extent, extent, 3))
    for cells, weight in layers:
        grid = quantize(random.standard_normal((cells, cells, 3)), NORMAL_BITS)
        grid = 0.5 * grid + 0.8 * grid.mean(axis=2, keepdims=True)
        columns = _interpolate(grid, extent)
        total += weight * _interpolate(columns.transpose(1, 0, 2), extent).transpose(1, 0, 2)
    total -= _mean(total)
    return np.asarray(total / math.sqrt(_mean(total * total)), dtype=np.float32)


def _interpolate(values: NDArray[np.float64], extent: int) -> NDArray[np.float64]:
    """Interpolate periodic values (cells, ...) smoothly at `extent` points, so that a texture is periodic."""
    cells = len(values)
    position = np.arange(extent) * cells / extent
    left = position.astype(np.int64)
    part = position - left
    part = (part * part * (3 - 2 * part))[:, None, None]
    return np.asarray(values[left] * (1 - part) + values[(left + 1) % cells] * part)


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean to within 2**-24, from a sum of integers, which does not depend on the order."""
    return int(np.rint(values * 2.0**24).astype(np.int64).sum()) / values.size / 2**24


def _crop(texture: Field, offset: NDArray[np.float64], size: int) -> Field:
    """Return the part of a periodic texture under the camera, (size, size, 3), interpolated."""
    extent = len(texture)
    across, down = float(offset[0]) % extent, float(offset[1]) % extent
    left, top = int(across), int(down)
    rows = texture[top : top + size + 1, left : left + size + 1]
    if rows.shape[:2] != (size + 1, size + 1):
        reach = np.arange(size + 1)
        rows = texture[np.ix_((top + reach) % extent, (left + reach) % extent)]
    part_across, part_down = np.float32(across - left), np.float32(down - top)
    rows = rows[:-1] * (1 - part_down) + rows[1:] * part_down
    return np.asarray(rows[:, :-1] * (1 - part_across) + rows[:, 1:] * part_across)


def _paint(pictures: Field, sprite: Sprite, track: Track, frames: slice) -> None:
    """Draw one sprite into the pictures, on a patch around it in each."""
    size = pictures.shape[1]
    x, y, scale, brightness = (
        values[frames].astype(np.float32) for values in (track.x, track.y, track.scale, track.brightness)
    )
    cosine, sine = (
        quantize(function(track.angle[frames]), SHAPE_BITS).astype(np.float32)[:, None, None]
        for function in (np.cos, np.sin)
    )
    radius = (sprite.radius * scale)[:, None, None]
    half = math.ceil(float(radius.max()) * REACH + 1)
    left = np.floor(x).astype(np.int64) - half
    top = np.floor(y).astype(np.int64) - half
    steps = np.arange(2 * half + 1)
    across = ((left[:, None] + steps) - x[:, None])[:, None, :].astype(np.float32) / radius
    down = ((top[:, None] + steps) - y[:, None])[:, :, None].astype(np.float32) / radius
    u = cosine * across + sine * down
    v = cosine * down - sine * across
    # Distances are in pixels, so that edges are about one pixel soft at any size.
    cover = np.clip(0.5 - _OUTLINES[sprite.shape](u, v) * radius, 0, 1)[..., None]
    side = np.clip(0.5 + u * radius, 0, 1)[..., None]
    first, second = (np.array(colour, dtype=np.float32) for colour in sprite.colours)
    paint = (first * side + second * (1 - side)) * brightness[:, None, None, None]
    for row in range(len(pictures)):
        inside_y, inside_x = (
            _inside(int(top[row]), len(steps), size),
            _inside(int(left[row]), len(steps), size),
        )
        if inside_y is None or inside_x is None:
            continue
        picture = pictures[row, inside_y[0], inside_x[0]]
        patch = (row, inside_y[1], inside_x[1])
        picture += cover[patch] * (paint[patch] - picture)


def _inside(begin: int, length: int, size: int) -> tuple[slice, slice] | None:
    """Return the slices of a patch's visible part in picture and patch; None if it is outside."""
    low, high = max(begin, 0), min(begin + length, size)
    return (slice(low, high), slice(low - begin, high - begin)) if low < high else None


def _box(u: Field, v: Field, left: float, top: float, right: float, bottom: float) -> Field:
    return np.asarray(np.maximum(np.maximum(left - u, u - right), np.maximum(top - v, v - bottom)))


def _bar(u: Field, v: Field) -> Field:
    return _box(u, v, -1.05, -0.42, 1.05, 0.42)


def _square(u: Field, v: Field) -> Field:
    return _box(u, v, -0.85, -0.85, 0.85, 0.85)


def _corner(u: Field, v: Field) -> Field:
    upright = _box(u, v, -0.9, -0.9, -0.1, 0.9)
    return np.asarray(np.minimum(upright, _box(u, v, -0.9, 0.15, 0.9, 0.9)))


def _disk(u: Field, v: Field) -> Field:
    return np.asarray(np.sqrt(u * u + v * v) - 0.9)


def _half_disk(u: Field, v: Field) -> Field:
    return np.asarray(np.maximum(np.sqrt(u * u + v * v) - 1.05, -0.15 - u))


def _wedge(u: Field, v: Field) -> Field:
    return np.asarray(np.maximum(v - 0.7, 0.87 * np.abs(u) - 0.5 * v - 0.55))


def _arrow(u: Field, v: Field) -> Field:
    head = np.maximum(-0.05 - u, 0.71 * (u + np.abs(v)) - 0.75)
    return np.asarray(np.minimum(head, _box(u, v, -1.0, -0.3, 0.1, 0.3)))


_OUTLINES: dict[str, Callable[[Field, Field], Field]] = {
    "arrow": _arrow,
    "bar": _bar,
    "corner": _corner,
    "disk": _disk,
    "half-disk": _half_disk,
    "square": _square,
    "wedge": _wedge,
}
"""Signed distance to each outline in radii, negative inside, for sprite coordinates u and v."""
