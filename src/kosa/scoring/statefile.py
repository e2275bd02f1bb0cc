"""State files: two lines of JSON, a header with the length and checksum of the body, and the body.

Arrays are {"dtype", "shape", "data"}: little-endian bytes, zlib-compressed, in base64. Equal states are equal files, byte
by byte. A reader trusts nothing: what is not of the right type, shape and range is an error that names the file.
"""

import base64
import binascii
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.errors import InputError
from kosa.scoring.wholefile import lock, write_whole

T = TypeVar("T")

VERSION = 3
_DTYPES = {"int64": "<i8", "float64": "<f8"}
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError)
_KINDS = {"predictions": "one set of predictions", "comparison": "a comparison of two"}
_MOST_HEADER = 1 << 12
_MOST_BYTES = 1 << 29  # of all arrays, unpacked: a file of a few bytes must not fill the memory


def save(stored: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write what is stored of a state; see State.save."""
    content = dump(stored)
    with lock(path):
        write_whole(Path(path), content)


def dump(stored: dict[str, Any]) -> bytes:
    """A state file's content."""
    body = json.dumps(_packed(stored), ensure_ascii=True, separators=(",", ":")).encode()
    header = {"kosa_state": VERSION, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body + b"\n"


def parse(content: bytes, name: str, kinds: Mapping[str, Callable[[dict[str, Any]], T]]) -> T:
    """The state in a file's content, made by the function of its kind; `name` is what an error calls it."""
    body = _body(content, name)
    try:
        stored = _Unpacker(max(_MOST_BYTES, 64 * len(body))).unpacked(json.loads(body))
        holds = stored["holds"]
        if holds in kinds:
            return kinds[holds](stored)
    except (*_DAMAGE, zlib.error) as error:
        raise InputError(f"{name!r} is a damaged state file: its content does not fit together") from error
    if holds not in _KINDS:
        raise InputError(f"{name!r} is a damaged state file: its content does not fit together")
    raise InputError(f"{name!r} holds {_KINDS[holds]}; expected {_KINDS[next(iter(kinds))]}")


def _body(content: bytes, name: str) -> bytes:
    """The second line, after every check that the header allows."""
    head, _, rest = content[:_MOST_HEADER].partition(b"\n")
    foreign = InputError(
        f"{name!r} is no state file of kosa; expected one that `--state` or `State.save` wrote"
    )
    try:
        header = json.loads(head)
        version = header["kosa_state"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if head.startswith(b'{"kosa_state"'):
            raise InputError(f"{name!r} is a damaged state file: its header is cut off or changed") from error
        raise foreign from error
    if type(version) is not int or version < 1:
        raise foreign
    if version < VERSION:
        raise InputError(
            f"{name!r} has format {version}, of a Kosa before its first release, which is no longer read; score again"
        )
    if version > VERSION:
        raise InputError(
            f"{name!r} was written by a newer Kosa: its format is {version}, this one reads {VERSION}; upgrade"
        )
    rest = content[len(head) + 1 :]
    size, digest = header.get("bytes"), header.get("sha256")
    if type(size) is not int or len(rest) < size + 1:
        raise InputError(
            f"{name!r} is a damaged state file: {len(rest)} bytes follow its header, which says {size}"
        )
    if rest[size:] != b"\n" or hashlib.sha256(rest[:size]).hexdigest() != digest:
        raise InputError(f"{name!r} is a damaged state file: its checksum does not fit")
    return rest[:size]


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _packed(item) for name, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    little = np.ascontiguousarray(value).astype(_DTYPES[value.dtype.name], copy=False)
    return {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "data": base64.b64encode(zlib.compress(little.tobytes(), 1)).decode(),
    }


class _Unpacker:
    """Arrays of one file; together they have at most `room` bytes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def unpacked(self, value: Any, notes: bool = False) -> Any:
        if not isinstance(value, dict) or notes:
            return value
        if set(value) != {"dtype", "shape", "data"}:
            return {name: self.unpacked(item, name in ("notes", "setup")) for name, item in value.items()}
        return self._array(value["shape"], value["dtype"], value["data"])

    def _array(self, shape: Any, dtype: str, text: str) -> NDArray[Any]:
        if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 2:
            raise ValueError("no shape")
        size = 8 * math.prod(shape)
        self._room -= size
        if self._room < 0:
            raise ValueError("arrays beyond all measure")
        try:
            packed = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError("no base64") from error
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(packed, size + 1)
        if len(data) != size or not unpacker.eof:
            raise ValueError("an array of another size")
        array = np.frombuffer(data, dtype=_DTYPES[dtype]).reshape(shape)
        return array.astype(dtype, copy=False)
