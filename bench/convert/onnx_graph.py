"""Read the nodes and the weights of an ONNX file: the few fields of its protocol buffers that are needed.

The numbers of fields are those of ``onnx.proto`` (ModelProto, GraphProto, NodeProto, TensorProto). Weights
must be float32 and stored in the file as raw bytes, as torch's exporter writes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from bench.convert.conversion import Array
from bench.io.errors import InputError
from bench.io.text import MAX_NAME_LENGTH, short

GRAPH = 7
NODE, INITIALIZER = 1, 5
INPUT, NODE_NAME = 1, 3
DIMS, DATA_TYPE, TENSOR_NAME, RAW_DATA = 1, 2, 8, 9
FLOAT32 = 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DIMS = 8


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """The weights of a graph, and the inputs of its nodes."""

    weights: dict[str, Array]
    inputs: dict[str, tuple[str, ...]]
    """Names of the inputs of every named node."""

    def operand(self, node: str) -> Array:
        """Return the one weight among the inputs of a node; raise InputError if there is not one."""
        found = [name for name in self.inputs.get(node, ()) if name in self.weights]
        if len(found) != 1:
            raise InputError(f"node {short(node)}: {len(found)} weights among its inputs, allowed is one")
        return self.weights[found[0]]

    def weight(self, name: str) -> Array:
        """Return a weight; raise InputError if there is none of the name."""
        if name not in self.weights:
            raise InputError(f"no weight {short(name)}, allowed is the file of the package")
        return self.weights[name]


def read_graph(content: bytes, where: str) -> OnnxGraph:
    """Return the graph of an ONNX file's content; raise InputError that begins with ``where``."""
    try:
        graph = _one(memoryview(content), GRAPH)
        weights = dict(_weight(each) for number, each in _fields(graph) if number == INITIALIZER)
        nodes = [each for number, each in _fields(graph) if number == NODE]
        inputs = {_text(_one(node, NODE_NAME)): _all_text(node, INPUT) for node in nodes}
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not an ONNX file ({' '.join(str(error).split())})") from None
    return OnnxGraph(weights, inputs)


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Return the integer of variable length at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("an integer of more than ten bytes")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and the value of every field: bytes, or an integer of variable length."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            integer, place = _varint(message, place)
            yield number, integer
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(kind)
        if kind == BYTES:
            length, place = _varint(message, place)
        if length is None or place + length > len(message):
            raise ValueError("truncated, or of an unknown kind of field")
        yield number, message[place : place + length]
        place += length


def _bytes(message: memoryview | int) -> memoryview:
    if isinstance(message, int):
        raise ValueError("a number where a message is expected")
    return message


def _one(message: memoryview | int, wanted: int) -> memoryview:
    """Return the last value of a field, as protocol buffers have it; empty if there is none."""
    found = memoryview(b"")
    for number, value in _fields(_bytes(message)):
        if number == wanted:
            found = _bytes(value)
    return found


def _text(value: memoryview) -> str:
    if len(value) > MAX_NAME_LENGTH:
        raise ValueError(f"a name of more than {MAX_NAME_LENGTH} bytes")
    return bytes(value).decode()


def _all_text(message: memoryview | int, wanted: int) -> tuple[str, ...]:
    values = (value for number, value in _fields(_bytes(message)) if number == wanted)
    return tuple(_text(_bytes(value)) for value in values)


def _weight(message: memoryview | int) -> tuple[str, Array]:
    name, kind, dims, raw = "", None, [], memoryview(b"")
    for number, value in _fields(_bytes(message)):
        if number == TENSOR_NAME:
            name = _text(_bytes(value))
        elif number == DATA_TYPE:
            kind = value
        elif number == RAW_DATA:
            raw = _bytes(value)
        elif number == DIMS and isinstance(value, int):
            dims.append(value)
        elif number == DIMS:  # packed
            place, packed = 0, _bytes(value)
            while place < len(packed):
                size, place = _varint(packed, place)
                dims.append(size)
    if kind != FLOAT32 or len(dims) > MAX_DIMS:
        return name, np.zeros(0, np.float32)  # shapes and indices, which no weight is made of
    return name, np.frombuffer(raw, np.dtype("<f4")).reshape(dims)
