"""Files of features: one (T, D) array for each video, as ``.npy``, ``.npz``, ``.pt``, ``.h5`` or ``.hdf5``.

No file runs code: pickled arrays are refused. Importing this module does not import torch.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.io.errors import InputError
from bench.io.reading import reason
from datasets.annotations.dataset import Dataset, Video
from datasets.annotations.files import HDF5, PREFIX, content_sample

KEYS = ("feats", "features")
"""Names of the array in a file that holds several."""
DIGEST_VIDEOS = 256
"""Largest number of files that are part of the digest of features."""
FINITE_ROWS = 4096
"""Features that are checked at once."""
LARGEST_BYTES = 2**34
"""Bytes of one video's features."""


def feature_path(dataset: Dataset, video: Video) -> Path:
    """Return the file with a video's features; raise InputError if there is none, or several that differ."""
    found = dataset.folder.find(video.id)
    if found is None:
        raise InputError(dataset.folder.missing(video.id))
    return found


def read_features(path: Path, video: str) -> NDArray[Any]:
    """Return the array (T, D) of a video, of any float type; of ``.npy`` files only what is used is read.

    The last few arrays stay in memory. Raises InputError that names the file for one that cannot be read, and
    for an array of another kind.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: features cannot be read: {reason(error)}") from None
    return _read(path, video, status.st_mtime_ns, status.st_size)


def check_finite(path: Path, video: str) -> None:
    """Raise InputError that names the first feature (T, D) with a NaN or an infinity; the whole file is read.

    In training they would end the run at some step, in a test video they would only cost detections.
    """
    features = read_features(path, video)
    for first in range(0, len(features), FINITE_ROWS):
        finite = np.isfinite(features[first : first + FINITE_ROWS]).all(axis=1)
        if not finite.all():
            raise InputError(f"{path}: feature {first + int(finite.argmin())} has values that are not finite")


@functools.lru_cache(maxsize=4)
def _read(path: Path, video: str, changed: int, size: int) -> NDArray[Any]:
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt, **dict.fromkeys(HDF5, _read_hdf5)}
    try:
        array = readers[path.suffix.lower()](path, video)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path}: features cannot be read: {reason(error)}") from None
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise InputError(
            f"{path}: features of type {array.dtype} and shape {array.shape}, "
            "allowed is an array (T, D) of floating-point numbers"
        )
    if array.size * array.itemsize > LARGEST_BYTES:
        raise InputError(f"{path}: features of {array.size * array.itemsize} bytes are too many")
    return array


def _read_npy(path: Path, video: str) -> NDArray[Any]:
    with path.open("rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError("it is no .npy file")
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _read_npz(path: Path, video: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        if sum(each.file_size for each in archive.infolist()) > LARGEST_BYTES:
            raise ValueError("its arrays are too large")
    with np.load(path, allow_pickle=False) as stored:
        found: NDArray[Any] = stored[_key(stored.files, path)]
        return found


def _read_pt(path: Path, video: str) -> NDArray[Any]:
    import torch

    from bench.io.torch_files import check_torch_file

    check_torch_file(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than tensors and plain values") from None
    except Exception as error:  # the unpickler raises many kinds
        raise ValueError(str(error).splitlines()[0]) from None
    if isinstance(stored, Mapping):
        stored = stored[_key([name for name, value in stored.items() if torch.is_tensor(value)], path)]
    if not torch.is_tensor(stored):
        raise ValueError("it holds no tensor")
    found: NDArray[Any] = stored.float().numpy() if stored.dtype == torch.bfloat16 else stored.numpy()
    return found


def _read_hdf5(path: Path, video: str) -> NDArray[Any]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: HDF5 files need the package h5py, which is not installed: pip install h5py"
        ) from None
    with h5py.File(path, "r") as stored:
        names = [name for name, value in stored.items() if isinstance(value, h5py.Dataset)]
        own = [name for name in (video, f"{PREFIX}{video}", video.removeprefix(PREFIX)) if name in stored]
        found: NDArray[Any] = np.asarray(stored[own[0] if own else _key(names, path)])
        return found


def _key(names: Iterable[str], path: Path) -> str:
    """Return the name of the features among the names of the arrays in a file."""
    names = list(names)
    known = [name for name in KEYS if name in names] or names
    if len(known) != 1:
        raise InputError(
            f"{path}: holds {len(names)} arrays, allowed is one, or one called {' or '.join(KEYS)}"
        )
    return known[0]


def features_sha256(dataset: Dataset, subsets: Iterable[str]) -> str:
    """Return a SHA-256 that identifies the features of a run: ids, sizes of files, and parts of their bytes.

    It covers every video of the subsets, or at most DIGEST_VIDEOS evenly spaced ones, and of each file the
    start, middle and end.
    """
    videos = {video.id: video for name in subsets for video in dataset.subset(name)}
    digest = hashlib.sha256()
    for name in sorted(videos)[:: -(-len(videos) // DIGEST_VIDEOS)]:
        video = videos[name]
        path = feature_path(dataset, video)
        try:
            size, *parts = content_sample(path)
        except OSError as error:
            raise InputError(f"{path}: features cannot be read: {reason(error)}") from None
        digest.update(f"{video.id}\n{size}\n".encode())
        for part in parts:
            digest.update(part)
    return digest.hexdigest()
