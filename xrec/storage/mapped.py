"""Files that the processes of a node share: one process makes each file, and all of them map it.

They are in `node_folder()` and may be deleted at any time to free space. A file's name determines
its content, which never changes. Mapped pages are in memory once per node. Whoever makes a file
deletes those that nobody opened for `UNUSED_DAYS`; processes that still map them keep them.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from xrec.errors import StorageError
from xrec.storage.artifact import download
from xrec.storage.location import Location
from xrec.storage.manifest import Manifest
from xrec.storage.parquet import check_schema

logger = logging.getLogger("xrec")

T = TypeVar("T")
Arrays = dict[str, npt.NDArray[Any]]
Allocate = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""A function of a name, a shape and a dtype that returns an array of zeros, to be filled later."""

UNUSED_DAYS = 7
_REMEDY = "make the artifact again"


def node_folder() -> Path:
    """Return $XDG_CACHE_HOME/xrec, or ~/.cache/xrec."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xrec"


def made_once(target: Path, make: Callable[[Path], object]) -> None:
    """Create the file or folder `target` with `make`, unless it exists.

    It is written under a temporary name and then renamed. If several processes call this at once,
    the first one makes it and the others wait. If `make` fails, nothing is left behind.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        unfinished = target.with_name(f".{target.name}.partial")
        _delete(unfinished)  # left by a process that was killed
        try:
            make(unfinished)
            unfinished.rename(target)
        finally:
            _delete(unfinished)


def mapped(name: str, make: Callable[[Path], object], open_file: Callable[[Path], T]) -> T:
    """Return `open_file(path)` for this node's file `name`, which `make` writes if needed.

    If `open_file` raises ValueError or OSError, as it does for a truncated file, the file is made
    again. Raises StorageError if the node's disk is full or its folder cannot be written.
    """
    path = node_folder() / "mapped" / name
    try:
        if not path.exists():
            _delete_unused(path.parent)
        made_once(path, make)
        try:
            os.utime(path)
            return open_file(path)
        except (ValueError, OSError) as error:
            logger.warning("%s is damaged (%s); making it again", path, error)
            _delete(path)
            made_once(path, make)
            return open_file(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write a file of the dataset or graph on this node ({error}); free "
            "disk space, or set XDG_CACHE_HOME to a writable folder with enough space",
            code="no_room",
            key=str(path),
        ) from error


def mapped_arrays(name: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    """Return the arrays that `make` returns, mapped as in `filled_arrays`."""

    def fill(allocate: Allocate) -> None:
        for key, array in make().items():
            allocate(key, array.shape, array.dtype)[...] = array

    return filled_arrays(name, fill)


def filled_arrays(name: str | None, fill: Callable[[Allocate], object]) -> Arrays:
    """Return the arrays that `fill` allocates and fills, mapped from files in the folder `name`.

    A process that writes to an array changes only its own copy. Raises the same errors as `mapped`.

    name: must differ for different arrays; None to keep the arrays in memory.
    """
    if name is None:
        arrays: Arrays = {}
        fill(lambda key, *array: arrays.setdefault(key, np.zeros(*array)))
        return arrays

    def write(folder: Path) -> None:
        folder.mkdir()
        names: Arrays = {}
        fill(lambda key, *a: names.setdefault(key, file_of_zeros(folder / f"{key}.npy", *a)))
        (folder / "names").write_text("\n".join(names))

    def read(folder: Path) -> Arrays:
        names = (folder / "names").read_text().split("\n")
        return {key: np.asarray(np.load(folder / f"{key}.npy", mmap_mode="c")) for key in names}

    return mapped(name, write, read)


def file_of_zeros(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:
    """Return an array of zeros mapped to the new file `path`; raise OSError if the disk is full."""
    array = np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))  # type: ignore[no-untyped-call]
    with path.open("r+b") as file:  # without reserved space, a full disk would kill the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return np.asarray(array)


def delete_mapped(prefix: str) -> None:
    """Delete this node's mapped files that start with `prefix`; processes may keep using them."""
    for path in (node_folder() / "mapped").glob(f"{prefix}*"):
        if path.suffix != ".lock":  # a waiting process has it open
            _delete(path)


def map_table(location: Location, manifest: Manifest, name: str, schema: pa.Schema) -> pa.Table:
    """Return the table in an artifact's Parquet file `name`, decoded once per node and mapped.

    Chunks have at most 65,536 rows. Raises ArtifactMismatchError if the file differs from the
    manifest, DataError if it has another schema, and the same errors as `mapped`.
    """
    content = partial(download, location, manifest, name, remedy=_REMEDY)
    table = mapped(f"{manifest.files[name]}.arrow", partial(_decode, content), _open_arrow)
    check_schema(location / name, table.schema, schema)
    return table


def map_file(
    location: Location,
    manifest: Manifest,
    name: str,
    open_file: Callable[[Path], T],
    num_more_bytes: int = 0,
) -> T:
    """Return `open_file(path)` for this node's copy of the artifact's file `name`.

    The content is followed by a hole of `num_more_bytes`, which takes no disk space. Raises the
    same errors as `map_table`, except DataError.
    """

    def copy(path: Path) -> None:
        download(location, manifest, name, path, remedy=_REMEDY)
        os.truncate(path, path.stat().st_size + num_more_bytes)

    return mapped(f"{manifest.files[name]}.copy", copy, open_file)


def _decode(download_to: Callable[[Path], None], path: Path) -> None:
    """Download a Parquet file, and write it to `path` as an uncompressed Arrow file."""
    parquet = path.with_name(f"{path.name}.parquet")
    try:
        download_to(parquet)
        file = pq.ParquetFile(parquet)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, file.schema_arrow) as writer:
            for batch in file.iter_batches():
                writer.write_batch(batch)
    finally:
        _delete(parquet)


def _open_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _delete_unused(folder: Path) -> None:
    """Delete the files that nobody opened for `UNUSED_DAYS`."""
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another process deleted it
            if path.suffix != ".lock" and path.stat().st_mtime < time.time() - UNUSED_DAYS * 86_400:
                _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
