"""Hostile weights, checkpoints, encodings, archives and bombs through all that reads them."""

import gzip
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.mutations import mutated_bytes, mutated_document
from fuzz.sandbox import Findings, sandbox, tree
from safetensors.torch import save_file

from bench.convert.i3d import PACKAGE, read_arrays
from bench.detection import read_submission
from bench.features.disk_cache import DiskCache, PassKey
from bench.features.encode import ClipPasses, HostEncodings
from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.pretrained import load_model
from bench.models.state_dict_layouts import VIT_LAYOUT
from bench.training.checkpoints.export import (
    KEY,
    SCHEMA,
    BaseWeights,
    CheckpointMetadata,
    build,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from bench.training.checkpoints.fingerprint import Fingerprint
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.history import TrainingHistory, to_dict
from datasets.annotations.reader import read_annotations
from strategies import build_strategy
from strategies.testing import TINY_PROTOCOL, tiny_detector

KINDS = ("weights", "weights", "safetensors", "kept", "unfinished", "encoding", "i3d", "gzip", "npz")
OWNER = Fingerprint("fuzz", str(torch.__version__), "code")
PASS = PassKey("0" * 64, 2, 0)
BOMB_BYTES = 2**30
"""What a bomb unpacks to; its file has some megabytes."""


class Code:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Material:
    """Whole files of each kind, what a spoilt one is read with, and a canary that code would kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.backbone = build_backbone("vit-t")
        self.state = {name: value.clone() for name, value in self.backbone.state_dict().items()}
        self.note = CheckpointMetadata(
            SCHEMA,
            "fuzz",
            "vit-t",
            build_strategy("head-only"),
            TINY_PROTOCOL,
            ("run", "jump"),
            "own (own)",
            3,
            BaseWeights("random", None),
            "cpu",
        )
        write_checkpoint(folder / "kept.safetensors", build(self.note, None, 3), self.note, None)
        self.kept = (folder / "kept.safetensors").read_bytes()
        self.detector, _ = tiny_detector(build_strategy("head-only"), TINY_PROTOCOL)
        self.stages = build_strategy("head-only").stages()
        self.said: list[str] = []
        self.cache = DiskCache(
            folder / "cache",
            self.detector.backbone.eval(),
            ClipPasses(TINY_PROTOCOL.frozen_clips, precision=TINY_PROTOCOL.precision),
            self.said.append,
            worth=float("inf"),
        )
        encoded = HostEncodings.of((torch.rand(2, 3, 4), torch.rand(2, 2)), 2)
        assert self.cache.write(PASS, encoded, 1.0, 2)
        self.path = self.cache._file(PASS).path
        self.encoding = self.path.read_bytes()
        self.canary = folder / "canary"
        self.canary.write_text("alive")
        self.zeros = bytes(2**20)

    def code(self, rng: random.Random) -> Code:
        """Return something whose unpickling would kill the canary."""
        kill = f"import os; os.remove({str(self.canary)!r})"
        choices = (
            Code(os.system, f"rm {self.canary}"),
            Code(os.remove, str(self.canary)),
            Code(eval, f"__import__('os').remove({str(self.canary)!r})"),
            Code(exec, kill),
            Code(open, str(self.canary), "w"),
            Code(getattr, "x", "upper"),
            Code(bytearray, 2**36),
            Code(torch.load, str(self.canary)),
        )
        return rng.choice(choices)


def bomb(material: Material, name: str) -> bytes:
    """A zip file with one member of zeros, a thousandth of its size."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(BOMB_BYTES >> 20):
            member.write(material.zeros)
    return content.getvalue()


def saved(value: object, zipped: bool = True) -> bytes:
    """What torch makes of a value."""
    content = io.BytesIO()
    torch.save(value, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def claiming(content: bytes, factor: int) -> bytes:
    """A zip file whose list of members says that each is so many times as large."""
    data = bytearray(content)
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        for field in (at + 20, at + 24):
            (size,) = struct.unpack_from("<I", data, field)
            struct.pack_into("<I", data, field, min(size * factor, 2**32 - 2))
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(data)


def odd_tensor(rng: random.Random, value: torch.Tensor) -> object:
    """Something else in a tensor's place."""
    choices: tuple[Callable[[], object], ...] = (
        lambda: torch.zeros(1).expand(10**12),
        lambda: value.to_sparse(),
        lambda: torch.empty(value.shape, device="meta"),
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.int64),
        lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        lambda: torch.full_like(value, float("nan")),
        lambda: value.to(torch.float8_e4m3fn),
        lambda: value[..., :0],
        lambda: "text",
        lambda: [value] * 1000,
    )
    return rng.choice(choices)()


def weights(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """A checkpoint of torch."""
    state: dict[Any, Any] = dict(material.state)
    name, zipped = rng.choice(list(state)), rng.random() < 0.7
    suffix = rng.choice((".pt", ".pth", ".pth.tar", ".bin"))
    how = rng.randrange(10)
    if how == 0:
        return suffix, pickle.dumps({"state_dict": material.code(rng)}, rng.randrange(6))
    if how == 1:
        return suffix, saved({"state_dict": state, "args": material.code(rng)}, zipped)
    if how == 2:
        state[name] = odd_tensor(rng, state[name])
    elif how == 3:
        state[rng.choice(("x" * 10**6, "\x1b[2J", ("a", "b"), 10**5000, "module." * 50_000))] = state[name]
    elif how == 4:
        state["model"] = state
    elif how == 5:
        return suffix, claiming(saved(state), rng.choice((2, 1000, 10**6)))
    elif how == 6:
        return suffix, bomb(material, rng.choice(("archive/data.pkl", "archive/data/0")))
    elif how == 7:
        return suffix, b"\x80\x02" + rng.choice((b"]", b"(", b"}", b"N", b"K\x01")) * 3_000_000 + b"."
    else:
        return suffix, mutated_bytes(rng, saved(state, zipped))
    return suffix, saved(state, zipped)


def safetensors(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """A checkpoint without code."""
    path = material.folder / "made.safetensors"
    save_file(material.state, path, metadata={"licence": "\x1b[31mred" * rng.choice((1, 10_000))})
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    if rng.random() < 0.4:
        return ".safetensors", mutated_bytes(rng, content)
    header = rng.choice(
        (
            b"[" * 10**6,
            mutated_document(rng, json.loads(content[8:end])),
            json.dumps({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}).encode(),
            json.dumps({"a" * 10**6: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode(),
        )
    )
    length = rng.choice((len(header), len(header), 2**63, 2**40, 0))
    return ".safetensors", length.to_bytes(8, "little") + header + content[end:]


def kept(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """What a run keeps of its weights."""
    if rng.random() < 0.3:
        return ".safetensors", mutated_bytes(rng, material.kept)
    end = 8 + int.from_bytes(material.kept[:8], "little")
    header = json.loads(material.kept[8:end])
    note = mutated_document(rng, json.loads(header["__metadata__"][KEY]))
    header["__metadata__"][KEY] = note.decode("utf-8", "replace")
    text = json.dumps(header).encode()
    return ".safetensors", len(text).to_bytes(8, "little") + text + material.kept[end:]


def unfinished(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """The checkpoint of a run that was killed."""
    values: dict[str, Any] = {
        "owner": {"run": OWNER.run, "torch": OWNER.torch, "code": OWNER.code, "schema": OWNER.schema},
        "seconds": 1.0,
        "stage": 0,
        "course": to_dict(TrainingHistory()),
        "parameters": {n: p.detach() for n, p in material.detector.named_parameters() if "head" in n},
        "buffers": dict(material.detector.named_buffers()),
        "optimizer": {},
        "average": None,
        "random": {},
    }
    how = rng.randrange(6)
    if how == 0:
        values[rng.choice(list(values))] = material.code(rng)
    elif how == 1:
        values[rng.choice(list(values))] = rng.choice((None, -1, 10**30, "x", [], {}, float("nan")))
    elif how == 2:
        return ".pt", bomb(material, "archive/data.pkl")
    elif how == 3:
        return ".pt", pickle.dumps(material.code(rng), rng.randrange(6))
    elif how == 4:
        return ".pt", claiming(saved(values), 1000)
    content = saved(values)
    return ".pt", mutated_bytes(rng, content) if how == 5 else content


def encoding(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """Encodings of a video."""
    return ".encoding", mutated_bytes(rng, material.encoding)


def i3d(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """What the weights of I3D are converted from."""
    array = np.zeros((1, 1, 1, 2, 2), np.float32)
    tree_of: dict[str, Any] = {"params": {"Conv3d_1a_7x7": {"Conv_0": {"kernel": array}}}}
    how = rng.randrange(7)
    if how == 0:
        tree_of["params"] = material.code(rng)
    elif how == 1:
        tree_of["params"] = Code(np.ndarray, (10**13,), "O")
    elif how == 2:
        tree_of["params"] = tree_of
    elif how == 3:
        return ".whl", bomb(material, PACKAGE.member)
    elif how == 4:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, kind, target in (
                (
                    f"x/{PACKAGE.member}",
                    rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)),
                    "/etc/passwd",
                ),
                ("../../canary", tarfile.REGTYPE, ""),
            ):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, target
                archive.addfile(entry)
        return ".tar", mutated_bytes(rng, content.getvalue()) if rng.random() < 0.5 else content.getvalue()
    elif how == 5:
        return ".ckpt", b"\x80\x04" + rng.choice((b"]", b"}", b"(", b"N")) * 3_000_000 + b"."
    content = pickle.dumps(tree_of, rng.randrange(2, 6))
    return ".ckpt", mutated_bytes(rng, content) if how == 6 else content


def packed(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """A gzip file where JSON is expected."""
    how = rng.randrange(4)
    if how == 0:
        content = io.BytesIO()
        with gzip.GzipFile(fileobj=content, mode="w", compresslevel=1) as file:
            file.write(b'{"results": {"a": "')
            for _ in range(BOMB_BYTES >> 20):
                file.write(material.zeros)
        return ".json.gz", content.getvalue()
    if how == 1:
        return ".json.gz", gzip.compress(b"") * rng.choice((1000, 200_000))
    if how == 2:
        return ".json.gz", gzip.compress(b'{"results": {}}') + rng.randbytes(50)
    return ".json.gz", mutated_bytes(rng, gzip.compress(b'{"results": {}, "database": {}}'))


def npz(rng: random.Random, material: Material) -> tuple[str, bytes]:
    """An archive of arrays, which nothing here reads."""
    if rng.random() < 0.3:
        return ".npz", bomb(material, "a.npy")
    content = io.BytesIO()
    np.savez(content, a=np.array([material.code(rng)], dtype=object), b=np.zeros(3))
    return ".npz", mutated_bytes(rng, content.getvalue()) if rng.random() < 0.5 else content.getvalue()


MAKERS: dict[str, Callable[[random.Random, Material], tuple[str, bytes]]] = {
    "weights": weights,
    "safetensors": safetensors,
    "kept": kept,
    "unfinished": unfinished,
    "encoding": encoding,
    "i3d": i3d,
    "gzip": packed,
    "npz": npz,
}


def readers(material: Material) -> dict[str, tuple[Callable[[Path], object], ...]]:
    """Return what reads each kind."""

    def as_weights(path: Path) -> None:
        audit = load_model(material.backbone, path, VIT_LAYOUT)
        if not "".join(audit.lines()).isprintable():
            raise AssertionError("an audit of characters that act")

    def as_kept(path: Path) -> None:
        restore(read_checkpoint(path), None)

    def as_unfinished(path: Path) -> None:
        keeper = ResumeCheckpointer(path, OWNER, 0.0, material.said.append)
        if keeper.read(material.detector, material.stages) is None:
            refused(material)

    def as_encoding(path: Path) -> None:
        path.replace(material.path)
        material.cache._damaged.clear()  # a video is warned of once
        # A file whose digests are cut off or zero has no passes, which is nothing to warn of.
        if material.cache.read(PASS) is None and material.said:
            refused(material)

    def as_i3d(path: Path) -> None:
        read_arrays(*PACKAGE.read(str(path)))

    return {
        "weights": (as_weights, as_kept),
        "safetensors": (as_weights, as_kept),
        "kept": (as_kept, as_weights),
        "unfinished": (as_unfinished, as_weights),
        "encoding": (as_encoding,),
        "i3d": (as_i3d,),
        "gzip": (read_submission, read_annotations),
        "npz": (as_weights, as_i3d, read_annotations),
    }


def refused(material: Material) -> None:
    """Raise what was told of a file that was not taken, as the others do that refuse one."""
    message = material.said.pop()
    if not message.isprintable():
        raise AssertionError(f"told in characters that act: {message!r}")
    raise InputError(message)


def fuzz(
    folder: Path,
    count: int,
    seed: int,
    kinds: tuple[str, ...] = KINDS,
    tick: Callable[[], object] = lambda: None,
) -> Findings:
    """What came of ``count`` files, of each kind in turn."""
    rng = random.Random(seed)
    material = Material(folder)
    reading = readers(material)
    with sandbox(folder) as box:
        for number in range(count):
            kind = kinds[number % len(kinds)]
            suffix, content = MAKERS[kind](rng, material)
            path = folder / f"file{suffix}"
            path.write_bytes(content)
            del content
            before = {**tree(folder / "cache"), "canary": material.canary.read_bytes()}
            for reader in reading[kind]:
                box.read(kind, reader, path)
            if not material.canary.exists() or material.canary.read_bytes() != before["canary"]:
                box.found.runs += 1
                box.found.failures.append(f"{kind} {path.name}: code was run")
                material.canary.write_text("alive")
            path.unlink(missing_ok=True)
            box.found.files[kind] += 1
            tick()
    return box.found
