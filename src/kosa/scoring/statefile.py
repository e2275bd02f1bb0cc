"""State files: two lines of JSON, a header with the length and checksum of the body, and the body.

Arrays are {"dtype", "shape", "data"}: little-endian bytes, zlib-compressed, in base64. Equal states are equal files, byte
by byte. A reader trusts nothing: what is not of the right type, shape and range is an error that names the file.
"""

import base64
import binascii
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from kosa.scoring.errors import InputError
from kosa.scoring.exact import ExactSums
from kosa.scoring.groups import Confusions, Groups
from kosa.scoring.setup import Setup
from kosa.scoring.state import PARTS, State
from kosa.scoring.tables import Tally
from kosa.scoring.wholefile import lock, write_whole
from kosa.scoring.worst import Kept, Worst

VERSION = 1
_DTYPES = {"int64": "<i8", "float64": "<f8"}
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError)
_MOST_HEADER = 1 << 12
_MOST_BYTES = 1 << 29  # of one array, unpacked: a file of a few bytes must not fill the memory


def save(state: State, path: str | os.PathLike[str]) -> None:
    """Write a state; see State.save."""
    content = dump(state)
    with lock(path):
        write_whole(Path(path), content)


def dump(state: State) -> bytes:
    """A state file's content."""
    body = json.dumps(_packed(_stored(state)), ensure_ascii=True, separators=(",", ":")).encode()
    header = {"kosa_state": VERSION, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(header).encode() + b"\n" + body + b"\n"


def load(path: str | os.PathLike[str]) -> State:
    """Read a state; see State.load."""
    return parse(Path(path).read_bytes(), str(path))


def parse(content: bytes, name: str) -> State:
    """The state in a file's content; `name` is what an error calls it."""
    body = _body(content, name)
    try:
        return _restored(_unpacked(json.loads(body)))
    except (*_DAMAGE, zlib.error) as error:
        raise InputError(f"{name!r} is a damaged state file: its content does not fit together") from error


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


def _stored(state: State) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for part in PARTS:
        value = getattr(state, part)
        parts[part] = [row.stored() for row in value.rows] if isinstance(value, Worst) else value.stored()
    return {
        "setup": state.setup.to_json(),
        "rows": state.rows,
        "ranges": [list(pair) for pair in state.ranges],
        "notes": state.notes,
        "units": {unit: sums.stored() for unit, sums in zip(state.setup.per, state.units, strict=True)},
        "parts": parts,
    }


def _restored(stored: dict[str, Any]) -> State:
    setup = Setup.from_json(stored["setup"])
    state = State(setup)
    rows, notes = stored["rows"], stored["notes"]
    if type(rows) is not int or not isinstance(notes, dict):
        raise ValueError("no count of rows")
    state.rows, state.notes = rows, notes
    for start, end in stored["ranges"]:
        if type(start) is not int or type(end) is not int:
            raise ValueError("no range of rows")
        state._see(start, end)
    if sum(end - start for start, end in state.ranges) != rows:
        raise ValueError("more or fewer rows than their numbers say")
    for part, value in stored["parts"].items():
        if part not in PARTS:
            raise ValueError("a part that there is not")
        setattr(state, part, _part(getattr(state, part), value, setup))
    if set(stored["parts"]) != set(PARTS) or len(stored["units"]) != len(setup.per):
        raise ValueError("a part that is missing")
    state.units = [_sums(stored["units"][unit], 1) for unit in setup.per]
    if int(state.classes.rows.sum()) > rows or (state.correct.rows > state.classes.rows).any():
        raise ValueError("more rows than there are")
    return state


def _part(empty: Any, stored: Any, setup: Setup) -> Any:
    """One part, which must be of the size that an empty one has."""
    if isinstance(empty, Worst):
        if len(stored) > setup.worst:
            raise ValueError("more of the worst rows than are kept")
        empty.rows = [Kept.restored(row, len(setup.classes)) for row in stored]
        return empty
    if isinstance(empty, Groups):
        return Groups.restored(stored, setup.weighted)
    if isinstance(empty, Confusions):
        return Confusions.restored(stored, len(setup.classes), setup.weighted)
    if isinstance(empty, Tally):
        tally = Tally.restored(stored)
        if len(tally.rows) != len(empty.rows) or (stored["weight"] is None) == setup.weighted:
            raise ValueError("a table of another size")
        return tally
    return _sums(stored, empty.groups)


def _sums(stored: Any, groups: int) -> ExactSums:
    if stored["groups"] != groups:
        raise ValueError("sums of another size")
    return ExactSums.restored(stored)


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


def _unpacked(value: Any, notes: bool = False) -> Any:
    if not isinstance(value, dict) or notes:
        return value
    if set(value) != {"dtype", "shape", "data"}:
        return {name: _unpacked(item, name in ("notes", "setup")) for name, item in value.items()}
    shape = value["shape"]
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 2:
        raise ValueError("no shape")
    size = 8
    for extent in shape:
        size *= extent
    if size > _MOST_BYTES:
        raise ValueError("an array beyond all measure")
    try:
        packed = base64.b64decode(value["data"], validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, size + 1)
    if len(data) != size or not unpacker.eof:
        raise ValueError("an array of another size")
    array = np.frombuffer(data, dtype=_DTYPES[value["dtype"]]).reshape(shape)
    return array.astype(value["dtype"])
