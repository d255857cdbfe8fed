"""Weights on disk in the format safetensors, read and written one tensor at a time, without torch.

A file is eight bytes with the length of a JSON header, the header (name: type, shape, place), and
the tensors' bytes. Types other than float are refused: a planner has none.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Weights", "write_weights"]

Array = npt.NDArray[np.float32]
_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LENGTH: Final = struct.Struct("<Q")
_MOST_HEADER: Final = 100 << 20


class Weights:
    """The tensors of one file, read when asked for, as fp32."""

    def __init__(self, path: Path) -> None:
        """Read the header. Raises `ValueError` for a file that is none."""
        self._path = path
        with path.open("rb") as file:
            prefix = file.read(_LENGTH.size)
            length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else _MOST_HEADER + 1
            if length > _MOST_HEADER:
                raise ValueError(f"{path} is no safetensors file")
            header: dict[str, Any] = json.loads(file.read(length))
        self._begin = _LENGTH.size + length
        header.pop("__metadata__", None)
        self._header = header

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by name."""
        return {name: tuple(entry["shape"]) for name, entry in self._header.items()}

    def __getitem__(self, name: str) -> Array:
        entry = self._header[name]
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name} in {self._path} is {entry['dtype']}, no type of weights")
        begin, end = entry["data_offsets"]
        with self._path.open("rb") as file:
            file.seek(self._begin + begin)
            raw = np.frombuffer(file.read(end - begin), dtype=_TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of an fp32
            raw = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        values: Array = raw.astype(np.float32).reshape(entry["shape"])
        return values


def write_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Array]
) -> None:
    """Write fp32 tensors by name; `tensor` is asked for each in its turn."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in sorted(shapes):
        size = 4 * math.prod(shapes[name])
        header[name] = {
            "dtype": "F32", "shape": list(shapes[name]), "data_offsets": [place, place + size]
        }  # fmt: skip
        place += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(head)) + head)
        for name in sorted(shapes):
            values = np.ascontiguousarray(tensor(name), dtype="<f4")
            if values.shape != tuple(shapes[name]):
                raise ValueError(f"{name} has the shape {values.shape}, not {shapes[name]}")
            file.write(values.tobytes())
