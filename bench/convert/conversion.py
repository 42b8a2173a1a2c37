"""Convert the weights of a package: read, write under a temporary path, load all of it, rename the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from bench.convert.archives import INSTALLED, Package
from bench.io.errors import InputError
from bench.io.reading import file_sha256, reason

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How the weights of one model are converted."""

    model: str
    package: Package
    licence: str
    convert: Callable[[bytes, str], dict[str, Array]]
    """Returns the model's tensors from the content of the weights file; the text is its location."""
    load: Callable[[Path], LoadAudit]
    """Loads a written checkpoint into the model; raises InputError if a tensor is missing."""
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else the record of the conversion says."""

    def run(self, source: str, output: Path) -> tuple[str, ...]:
        """Write the checkpoint ``output`` and a JSON file beside it; return the lines of the load audit.

        The JSON file, of the same name, holds source, hashes, licence and command.
        """
        if output.suffix != ".safetensors":
            raise InputError(f"{output}: allowed is a name that ends in .safetensors")
        content, where = self.package.read(source)
        tensors = self.convert(content, where)
        # A temporary folder: the name must have a checkpoint's suffix, and no other file may be replaced.
        with _draft_folder(output) as folder:
            draft = Path(folder) / output.name
            try:
                draft.write_bytes(serialised(tensors, {"source": Path(where).name, "licence": self.licence}))
                draft.chmod(0o644)
                audit = self.load(draft)
                record = Path(folder) / "record"
                record.write_text(json.dumps(self._record(source, content, draft), indent=1) + "\n")
                record.chmod(0o644)
                record.replace(output.with_suffix(".json"))
                draft.replace(output)
            except InputError as error:
                raise InputError(f"{where}: {str(error).removeprefix(f'{draft}: ')}") from error
            except (OSError, SafetensorError) as error:
                raise InputError(f"{output}: cannot be written ({' '.join(str(error).split())})") from error
        return dataclasses.replace(audit, file=output.name).lines()

    def _record(self, source: str, content: bytes, draft: Path) -> dict[str, Any]:
        """Return what the JSON file says; files are named without their folders."""
        package = self.package
        name = source if source == INSTALLED else Path(source).name
        return {
            "model": self.model,
            "package": f"{package.name} {package.version}",
            "source": name,
            "source_sha256": None if source == INSTALLED else file_sha256(Path(source)),
            "weights_file": package.member,
            "weights_file_sha256": hashlib.sha256(content).hexdigest(),
            "licence": self.licence,
            **self.notes,
            "command": f"python -m bench.convert {self.model} {name} {draft.name}",
            "file": draft.name,
            "sha256": file_sha256(draft),
        }


def serialised(tensors: Mapping[str, Array], notes: dict[str, str]) -> bytes:
    """Return a safetensors file with ``notes`` in order; the library's varying order changes the sha256."""
    # The library writes the memory as it lies, so that a transposed array would be read back scrambled.
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata=notes)
    end = 8 + int.from_bytes(content[:8], "little")
    header = {**json.loads(content[8:end]), "__metadata__": notes}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(end - 8) + content[end:]


def _draft_folder(output: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".draft-", dir=output.parent)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({reason(error)})") from None
