"""Cache of frozen encodings on disk, shared by runs and seeds: one file per video, read and written by pass.

The key of a file is two digests. ``encoder_digest`` covers all that turns a clip into an encoding: the state
of the upstream weights in memory, the network's encoding of one random clip (which covers taps, pooling and
code without listing them), clips per pass, precision, versions and device. ``bench.data.clips.Clips.source``
covers the pixels. The cache serves only the upstream as a run loaded it: encodings of a trained upstream are
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
from torch import Tensor, nn

from bench.features.encode import ClipPasses, HostEncodings, encode_frozen
from bench.features.encoding_file import EncodingFile
from bench.io.errors import InputError
from bench.io.reading import reason
from bench.io.writing import check_inside
from bench.memory.device import processor_name
from bench.models.backbone import Backbone

FORMAT = 2
RESERVE_BYTES = 2**30
"""Disk space that is left free."""
WORTH_BYTES_PER_SECOND = 50e6
"""Encodings that are computed faster than this are not written: reading them back would gain little."""


@dataclasses.dataclass(frozen=True)
class PassKey:
    """One pass of clips of a video."""

    source: str | None
    """The digest of the video's pixels; None if it is not known, so that nothing is kept on disk."""
    clips: int
    """Number of clips of the video."""
    number: int


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's bytes on the host, for any dtype."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for kind in (module.named_parameters(), module.named_buffers()):
        for name, tensor in kind:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor_bytes(tensor))
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
        probe.update(tensor_bytes(part))
    device = backbone.device
    facts = {
        **also,
        "format": FORMAT,
        "state": state,
        "probe": probe.hexdigest(),
        "modules": [f"{type(each).__module__}.{type(each).__qualname__}" for each in backbone.modules()],
        "geometry": repr(geometry),
        "clips_per_pass": passes.size,
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
        self.size = passes.size
        self.warn = warn
        self.worth = worth
        self.writing = True
        self._videos_read: set[str] = set()
        self._damaged: set[str] = set()

    @property
    def read_videos(self) -> int:
        """Number of videos of which encodings were read."""
        return len(self._videos_read)

    def if_unchanged(self, backbone: Backbone) -> DiskCache | None:
        """Return this cache if the upstream of ``backbone`` is still the one that was loaded, else None."""
        return self if state_digest(backbone.upstream()) == self.state else None

    def _file(self, key: PassKey) -> EncodingFile:
        path = self.folder / f"{key.source}.encoding"
        return EncodingFile(path, f"{self.encoder} {key.source}", key.clips, self.size)

    def read(self, key: PassKey) -> HostEncodings | None:
        """Return the encodings of a pass, or None if they are not on disk intact."""
        if key.source is None:
            return None
        try:
            found = self._file(key).read(key.number)
        except FileNotFoundError:
            return None
        except (OSError, InputError) as error:
            self._warn_damaged(key.source, error)
            return None
        if found is not None:
            self._videos_read.add(key.source)
        return found

    def has(self, key: PassKey) -> bool:
        """Return whether a pass is on disk; its bytes are not checked."""
        try:
            return key.source is not None and self._file(key).has(key.number)
        except (OSError, InputError):
            return False

    def _warn_damaged(self, source: str, error: OSError | InputError) -> None:
        if source not in self._damaged:
            self._damaged.add(source)
            self.warn(f"cache: {source[:16]}: {reason(error)}; it is computed again")

    def write(self, key: PassKey, encoded: HostEncodings, seconds: float, expected: int) -> bool:
        """Store the encodings of a pass, which took ``seconds`` to compute; return whether they are stored.

        ``expected`` clips are to be stored in all: if these do not fit on the disk, nothing more is written.
        """
        if key.source is None or not self.writing or encoded.nbytes > self.worth * seconds:
            return False
        try:
            check_inside(self.folder.parents[1], "encodings", f"encodings/{self.folder.name}")
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            wanted = encoded.nbytes // encoded.count * expected
            if free < wanted + RESERVE_BYTES:
                sizes = (
                    f"about {wanted >> 20} MiB are needed beside {RESERVE_BYTES >> 20}, {free >> 20} are free"
                )
                raise OSError(0, sizes)
            self._file(key).write(key.number, encoded)
        except (OSError, InputError) as error:
            self.writing = False
            self.warn(f"cache: {self.folder}: encodings are not kept on disk: {reason(error)}")
            return False
        return True
