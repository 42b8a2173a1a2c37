"""Cache of frozen encodings on disk, shared by runs and seeds: one file per video.

The key of a file is two digests. ``encoder_digest`` covers all that turns a clip into an encoding: the state
of the upstream weights in memory, the network's encoding of one random clip (which covers taps, pooling and
code without listing them), chunk, precision, versions and device. ``bench.data.clips.Clips.source`` covers
the pixels. The cache serves only the upstream as a run loaded it: encodings of a trained upstream are
computed and not written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bench.features.encode import ClipPasses, encode_frozen
from bench.io.errors import InputError
from bench.io.reading import open_regular, reason
from bench.io.writing import check_inside, write_atomically
from bench.memory.device import processor_name
from bench.models.backbone import Backbone, Encoded

FORMAT = 1
MAX_BYTES = 2**34
"""Largest size of a video's encodings."""
RESERVE_BYTES = 2**30
"""Disk space that is left free."""
WORTH_BYTES_PER_SECOND = 50e6
"""Encodings that are computed faster than this are not written: reading them back would gain little."""


def _bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's bytes on the host, for any dtype."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for kind in (module.named_parameters(), module.named_buffers()):
        for name, tensor in kind:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def encoder_digest(backbone: Backbone, passes: ClipPasses, state: str, **also: object) -> str:
    """Return the SHA-256 of all that determines an encoding except the clip. Encodes one random clip.

    ``state`` is the upstream's ``state_digest``; ``also`` are further JSON values to include.
    """
    geometry = backbone.geometry
    size = (1, 3, geometry.clip_frames, geometry.image_size, geometry.image_size)
    # NumPy draws the same bytes for a seed on every machine.
    clip = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).integers(0, 256, size, dtype=np.uint8))
    probe = hashlib.sha256()
    for part in encode_frozen(backbone, clip, dataclasses.replace(passes, size=1)):
        probe.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
        probe.update(_bytes(part))
    device = next(backbone.parameters()).device
    facts = {
        **also,
        "format": FORMAT,
        "state": state,
        "probe": probe.hexdigest(),
        "modules": [f"{type(each).__module__}.{type(each).__qualname__}" for each in backbone.modules()],
        "geometry": repr(geometry),
        "chunk": passes.size,
        "precision": passes.precision,
        "threads": torch.get_num_threads(),
        "device": [
            device.type,
            torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        ],
        "packages": [version("torch"), version("timm")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class DiskCache:
    """The encodings of one loaded upstream, in ``folder``.

    Errors are reported by ``warn`` in one line, once. They cost time and never change a result.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        passes: ClipPasses,
        warn: Callable[[str], None],
        *,
        worth: float = WORTH_BYTES_PER_SECOND,
        **also: object,
    ) -> None:
        backbone.eval()
        self.state = state_digest(backbone.upstream())
        self.encoder = encoder_digest(backbone, passes, self.state, **also)
        self.folder = folder / "encodings" / self.encoder[:16]
        self.warn = warn
        self.worth = worth
        self.read_videos = 0
        self.writing = True

    def if_unchanged(self, backbone: Backbone) -> DiskCache | None:
        """Return this cache if the upstream of ``backbone`` is still the one that was loaded, else None."""
        return self if state_digest(backbone.upstream()) == self.state else None

    def _path(self, source: str) -> Path:
        return self.folder / f"{source}.encoding"

    def _key(self, source: str) -> str:
        return f"{self.encoder} {source}"

    def read(self, source: str | None) -> Encoded | None:
        """Return the encodings of a video, or None if there is no intact file of this video."""
        if source is None:
            return None
        path = self._path(source)
        try:
            with open_regular(path, MAX_BYTES) as stream:
                content = stream.read()
        except FileNotFoundError:
            return None
        except (OSError, InputError) as error:
            self._warn_corrupt(path, reason(error))
            return None
        first, _, body = content.partition(b"\n")
        head = f"{self._key(source)} {hashlib.sha256(body).hexdigest()}"
        if first != head.encode():
            self._warn_corrupt(path, "damaged, or another video's")
            return None
        try:
            parts = load(body)
        except SafetensorError:
            self._warn_corrupt(path, "damaged")
            return None
        self.read_videos += 1
        return tuple(parts[name] for name in sorted(parts))

    def _warn_corrupt(self, path: Path, reason: str) -> None:
        self.warn(f"cache: {path.name[:16]}: {reason}; it is computed again")

    def write(self, source: str | None, encoded: Encoded, seconds: float, share: float = 1.0) -> None:
        """Store the encodings of a video, which took ``seconds`` to compute.

        They are the fraction ``share`` of all expected encodings: if these do not fit on the disk, nothing
        more is written.
        """
        size = sum(part.numel() * part.element_size() for part in encoded)
        if source is None or not self.writing or size > self.worth * seconds:
            return
        body = save({f"{number:04d}": part.contiguous() for number, part in enumerate(encoded)})
        head = f"{self._key(source)} {hashlib.sha256(body).hexdigest()}\n"
        try:
            check_inside(self.folder.parents[1], "encodings", f"encodings/{self.folder.name}")
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < size / share + RESERVE_BYTES:
                needed, left = int(size / share) >> 20, free >> 20
                raise OSError(
                    0, f"about {needed} MiB are needed beside {RESERVE_BYTES >> 20}, {left} are free"
                )
            write_atomically(self._path(source), head.encode() + body)
        except (OSError, InputError) as error:
            self.writing = False
            self.warn(f"cache: {self.folder}: encodings are not kept on disk: {reason(error)}")
