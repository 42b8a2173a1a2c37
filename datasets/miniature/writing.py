"""Render and encode one video of the miniature."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets.miniature.config import MiniatureConfig
from datasets.miniature.rendering import Pictures, render
from datasets.miniature.scenes import Scene, source_scene, target_scene

SCENES = {"target": target_scene, "source": source_scene}


def file_name(subset: str, index: int) -> str:
    """Return the name of a generated file within its folder."""
    return f"{subset}_{index:04d}.mp4"


def write_video(config: MiniatureConfig, domain: str, folder: Path, subset: str, index: int) -> str:
    """Write one video of the domain `target` or `source`; see `write_scene`."""
    scene = SCENES[domain](config, subset, index)
    return write_scene(scene, config, folder / file_name(subset, index))


class PictureFormat(Protocol):
    """What `write_scene` needs to know of a configuration: pixels, frames per second, x264's quantizer."""

    @property
    def size(self) -> int: ...
    @property
    def frames_per_second(self) -> int: ...
    @property
    def quantizer(self) -> int: ...


def write_scene(scene: Scene, config: PictureFormat, path: Path) -> str:
    """Render a scene and write its video; return the SHA-256 of its decoded pictures.

    Raises `OSError` if the file cannot be written.
    """
    import av

    frames = render(scene, config.size)
    options = encoder_options(config.frames_per_second, config.quantizer)
    try:
        encode(path, frames, config.size, config.frames_per_second, options)
        return pictures_sha256(path)
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror or str(error)) from None


def encoder_options(frames_per_second: int, quantizer: int) -> dict[str, str]:
    """Return options of x264 under which its output depends only on the frames."""
    return {
        "qp": str(quantizer),
        "preset": "veryfast",
        "g": str(4 * frames_per_second),
        # x264 slices pictures differently for several threads, and workers run in parallel anyway.
        "threads": "1",
        # Otherwise decisions depend on the instruction set and, with an adaptive quantizer, on
        # uninitialised memory. The quantizer is constant here, too.
        "x264-params": "cpu-independent=1",
    }


def encode(
    path: Path,
    chunks: Iterable[Pictures],
    size: int,
    frames_per_second: int,
    options: dict[str, str],
) -> None:
    """Write the frames (n, size, size, 3) as H.264 in an mp4 file at a constant rate."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=frames_per_second, options=options)
        stream.height = stream.width = size
        stream.pix_fmt = "yuv420p"
        for chunk in chunks:
            for planes in to_yuv(chunk):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def to_yuv(pictures: Pictures) -> Pictures:
    """Convert RGB (n, h, w, 3) to stacked planes Y, U and V, (n, 3 * h / 2, w): BT.601, limited range.

    Computed in integers, because FFmpeg's conversion differs between processors. A chroma value is the mean
    of 2 x 2 pixels.
    """
    count, height, width, _ = pictures.shape
    red, green, blue = (pictures[..., channel].astype(np.int32) for channel in range(3))
    luma = (66 * red + 129 * green + 25 * blue + (16 << 8) + 128) >> 8
    red, green, blue = (
        values.reshape(count, height // 2, 2, width // 2, 2).sum(axis=(2, 4)) for values in (red, green, blue)
    )
    offset = (128 << 10) + 512
    chroma = (
        (112 * blue - 74 * green - 38 * red + offset) >> 10,
        (112 * red - 94 * green - 18 * blue + offset) >> 10,
    )
    planes = [plane.reshape(count, -1) for plane in (luma, *chroma)]
    return np.concatenate(planes, axis=1).astype(np.uint8).reshape(count, 3 * height // 2, width)


def pictures_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's decoded pictures, plane by plane: H.264 decoding is bit-exact."""
    import av

    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(np.ascontiguousarray(frame.to_ndarray()).data)
    return digest.hexdigest()
