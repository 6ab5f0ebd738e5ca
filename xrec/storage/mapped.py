"""Files that the processes of a node share: one process makes each, and all of them map it.

They lie in `node_folder()`; whoever needs room may delete them at any time. A file's name says its
content, so it never changes. Pages that are mapped are in memory once a node.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from xrec.errors import StorageError
from xrec.storage.artifact import Manifest, download
from xrec.storage.location import Location
from xrec.storage.parquet import check_schema

logger = logging.getLogger("xrec")

T = TypeVar("T")
Arrays = dict[str, npt.NDArray[Any]]
Allocate = Callable[[str, tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""Makes an array of zeros of a name, a shape and a dtype, which is then filled piece by piece."""

_REMEDY = "make the artifact again"


def node_folder() -> Path:
    """$XDG_CACHE_HOME/xrec, or ~/.cache/xrec."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xrec"


def made_once(target: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write the file or folder `target`, unless it is there.

    It is written beside its place and then renamed. If several processes call this together, the
    first one makes it and the others wait. What is half made is deleted.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        unfinished = target.with_name(f".{target.name}.partial")
        _delete(unfinished)  # of a process that was killed
        try:
            make(unfinished)
            unfinished.rename(target)
        finally:
            _delete(unfinished)


def mapped(name: str, make: Callable[[Path], object], open_file: Callable[[Path], T]) -> T:
    """What `open_file` returns for the file `name` of this node, which `make` writes if need be.

    `open_file` raises ValueError or OSError for a file that is cut off; it is then made again.
    Raises StorageError if the node's disk is full or its folder cannot be written.
    """
    path = node_folder() / "mapped" / name
    try:
        made_once(path, make)
        try:
            return open_file(path)
        except (ValueError, OSError) as error:
            logger.warning("%s: is damaged (%s), and is made again", path, error)
            _delete(path)
            made_once(path, make)
            return open_file(path)
    except OSError as error:
        raise StorageError(
            f"{path}: this node cannot keep a file of dataset or graph ({error}); free space on "
            "its disk, or set XDG_CACHE_HOME to a folder with room that can be written",
            code="no_room",
            key=str(path),
        ) from error


def mapped_arrays(name: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    """The arrays by name that `make` returns, as `filled_arrays` has them."""

    def fill(allocate: Allocate) -> None:
        for each, array in make().items():
            allocate(each, array.shape, array.dtype)[...] = array

    return filled_arrays(name, fill)


def filled_arrays(name: str | None, fill: Callable[[Allocate], object]) -> Arrays:
    """The arrays by name that `fill` allocates and fills, as files in the folder `name` here.

    name: must differ where the arrays would, by what they are made of or how; None: they are in
    memory. A process that writes into one changes its own copy of the pages. Raises as `mapped`.
    """
    if name is None:
        arrays: Arrays = {}
        fill(lambda each, *of: arrays.setdefault(each, np.zeros(*of)))
        return arrays

    def write(folder: Path) -> None:
        folder.mkdir()
        names: Arrays = {}
        fill(lambda each, *of: names.setdefault(each, file_of_zeros(folder / f"{each}.npy", *of)))
        (folder / "names").write_text("\n".join(names))

    def read(folder: Path) -> Arrays:
        names = (folder / "names").read_text().split("\n")
        return {each: np.asarray(np.load(folder / f"{each}.npy", mmap_mode="c")) for each in names}

    return mapped(name, write, read)


def file_of_zeros(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[Any]:
    """A mapped array whose memory is the new file `path`; raises OSError if there is no room."""
    array = np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))  # type: ignore[no-untyped-call]
    with path.open("r+b") as file:  # a page that finds no room later would kill the process
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return np.asarray(array)


def delete_mapped(prefix: str) -> None:
    """Delete this node's mapped files whose names begin so; who has one mapped may go on."""
    for path in (node_folder() / "mapped").glob(f"{prefix}*"):
        if path.suffix != ".lock":  # whoever waits for it has it open
            _delete(path)


def map_table(location: Location, manifest: Manifest, name: str, schema: pa.Schema) -> pa.Table:
    """The Parquet file `name` of an artifact, decoded once a node; the columns are mapped.

    They are in chunks of at most 65,536 rows. Raises ArtifactMismatchError if the file is not that
    of the manifest, DataError if it is not in `schema`, StorageError as `mapped` does.
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
    """What `open_file` returns for this node's copy of the artifact's file `name`; raises the same.

    A hole of `num_more_bytes`, which takes no space, lies behind the content.
    """

    def copy(path: Path) -> None:
        download(location, manifest, name, path, remedy=_REMEDY)
        os.truncate(path, path.stat().st_size + num_more_bytes)

    return mapped(f"{manifest.files[name]}.copy", copy, open_file)


def _decode(download_to: Callable[[Path], None], path: Path) -> None:
    """Write what is downloaded, a Parquet file, to `path` as an uncompressed Arrow file."""
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


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
