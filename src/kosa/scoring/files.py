"""Which files a data set has, and what each is: opened by its first bytes, or by its name."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from kosa.scoring import numpyfiles
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Reader, require_arrow

_MAGIC = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "stream",
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
}
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "stream",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".npy": "npy",
    ".npz": "npz",
}
_COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}


def open_files(paths: Sequence[str | os.PathLike[str]]) -> list[Reader]:
    """The readers of all files that paths, directories and globs name; each row is there once."""
    readers = [open_file(path) for path in expand(paths)]
    seen: dict[str, Reader] = {}
    for reader in readers:
        # An NPY file that holds no records is a column of the data set of its folder.
        folder = getattr(reader, "folder", None)
        before = seen.setdefault(os.path.realpath(folder or reader.name), reader)
        if before is reader:
            continue
        if before.name == reader.name:
            raise InputError(f"{reader.name!r} is named twice; its rows would count twice")
        raise InputError(
            f"{before.name!r} and {reader.name!r} are columns of one data set; name one of them"
            if folder
            else f"{before.name!r} and {reader.name!r} are the same file; its rows would count twice"
        )
    return readers


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that paths, directories and globs name: those of a directory and of a glob in sorted order."""
    files: list[str] = []
    for path in paths:
        name = os.fspath(path)
        if os.path.isdir(name):
            found = sorted(
                str(place)
                for place in Path(name).rglob("*")
                if _is_data(place.relative_to(name)) and place.is_file()
            )
            if not found:
                raise InputError(
                    f"{name!r} is a directory without files of predictions (.parquet, .arrow, .csv, .jsonl, .npz, …)"
                )
        elif not os.path.exists(name) and glob.has_magic(name):
            found = sorted(place for place in glob.glob(name, recursive=True) if os.path.isfile(place))
            if not found:
                raise InputError(f"{name!r} matches no file")
        else:
            found = [name]
        files += found
    return files


def _is_data(place: Path) -> bool:
    """Whether a file in a directory is one of predictions, and not a marker, a checksum or a hidden file."""
    if any(part.startswith((".", "_")) for part in place.parts):
        return False
    suffixes = [suffix.lower() for suffix in place.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    # Plain arrays stand beside each other, a column each, and are no files of one data set.
    return bool(suffixes) and suffixes[-1] in _SUFFIXES and suffixes[-1] != ".npy"


def open_file(path: str | os.PathLike[str]) -> Reader:
    """Open a file by what it is: Parquet, Arrow IPC (file or stream), CSV, JSON Lines, NPY or NPZ."""
    place = Path(path)
    name = str(path)
    if place.is_dir():
        raise InputError(f"{name!r} is a directory, expected a file")
    if place.exists() and not place.is_file():
        raise InputError(f"{name!r} is not a regular file; write the predictions to a file first")
    with place.open("rb") as file:
        head = file.read(8)
    if not head:
        raise InputError(f"{name!r} is empty (0 bytes)")
    if head.startswith(b"FEA1"):
        raise InputError(
            f"{name!r} is Feather version 1, which is no longer read; write it as version 2 or Parquet"
        )
    suffixes = [suffix.lower() for suffix in place.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    said = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    found = next((form for magic, form in _MAGIC.items() if head.startswith(magic)), None)
    if found is None and said not in ("csv", "json"):
        if said is None:
            raise InputError(
                f"{name!r}: neither its first bytes nor its name say what it is; expected Parquet, Arrow "
                "IPC, Feather, NPY, NPZ, or a name ending in .csv, .tsv or .jsonl (also .gz)"
            )
        raise InputError(
            f"{name!r} does not begin as its ending {suffixes[-1]} promises; is it whole, and of that kind?"
        )
    return _open(found or str(said), name, suffixes[-1] if suffixes else "")


def _open(form: str, name: str, suffix: str) -> Reader:
    if form in ("npy", "npz"):
        return numpyfiles.NpyFile(name) if form == "npy" else numpyfiles.NpzFile(name)
    require_arrow(f"reading {name!r}")
    from kosa.scoring import arrowfiles, textfiles

    if form == "parquet":
        return arrowfiles.ParquetFile(name)
    if form == "csv":
        return textfiles.CsvFile(name, "\t" if suffix == ".tsv" else ",")
    if form == "json":
        return textfiles.JsonFile(name)
    return arrowfiles.IpcFile(name, stream=form == "stream")
