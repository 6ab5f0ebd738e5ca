"""A table at a URI: making it, opening it, its versions, and taking it over to write."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import deltalake

from xrec.config.shared import StorageConfig
from xrec.errors import LostTableError, StorageError, TableError
from xrec.storage import Location, open_location, request_each
from xrec.table.format import TableFormat, run_of
from xrec.table.log import FOLDER, Commit, Log
from xrec.table.pins import OWN_FOLDER, delete_pin, write_pin
from xrec.table.snapshot import Snapshot, load_snapshot, open_delta
from xrec.table.writer import Writer, create_surely

_TAKE_OVER_ATTEMPTS = 50


@dataclass(frozen=True)
class Table:
    """A Delta table that one driver at a time may extend.

    Anyone may read it at any time. `take_over` makes this process the driver.
    """

    location: Location
    storage: StorageConfig
    format: TableFormat
    run: str

    @classmethod
    def create(
        cls, uri: str, format: TableFormat, *, run: str, storage: StorageConfig | None = None
    ) -> "Table":
        """Make an empty table for `run`, or open the one of this run that is there.

        Several drivers may call this at the same time; they get the same table.

        Raises TableError if another run's table, a table of another format, or other files are
        there, or if the store has no conditional writes.
        """
        storage = storage or StorageConfig()
        location = open_location(uri, storage)
        log = Log(location)
        if log.newest() is None:
            refuse_other_files(location)
            check_conditional_writes(location)
            commit = Commit.new(epoch=0, holder="", kind="create", metadata={})
            protocol = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
            metadata = format.metadata_action(str(uuid.uuid4()), run, commit.at_ms)
            create_surely(log, 0, commit, [protocol, metadata])
        table = cls.open(uri, run=run, storage=storage)
        if table.format != format:
            raise TableError(
                f"{uri}: holds a table of another format: {table.format}, expected {format}; give "
                "another output URI"
            )
        return table

    @classmethod
    def open(
        cls, uri: str, *, run: str | None = None, storage: StorageConfig | None = None
    ) -> "Table":
        """Open the table at `uri`.

        Raises TableError if there is none, if xrec did not make it, or if it belongs to another run
        than `run`, where that is given.
        """
        storage = storage or StorageConfig()
        location = open_location(uri, storage)
        schema, partition_by, configuration = _metadata(location, storage)
        there = run_of(configuration, uri)
        if run is not None and there != run:
            raise TableError(
                f"{location}: holds the table of run {there}, expected run {run}; give another "
                "output URI, or delete that table"
            )
        return cls(location, storage, TableFormat.of(schema, partition_by, configuration), there)

    def newest_version(self, known: int | None = None) -> int:
        """The newest version.

        If the caller knows a version, and it still is the newest, this takes few small requests.
        """
        newest = Log(self.location).newest(known)
        if newest is None:
            raise TableError(f"{self.location}: the table was deleted")
        return newest

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The table at `version`, or at its newest version.

        Raises TableError if the version is not in the log, or was not committed by xrec.
        """
        wanted = self.newest_version() if version is None else version
        return load_snapshot(self.location, self.storage, wanted)

    def history(self, after: int = -1) -> Iterator[tuple[int, Commit]]:
        """The versions after `after`, oldest first, with their commits.

        Versions that vacuum deleted from the log are missing. Raises TableError at a commit that is
        not xrec's.
        """
        log = Log(self.location)
        versions = [version for version in log.versions() if version > after]
        return request_each(lambda version: (version, log.commit(version)), versions)

    def commit(self, version: int) -> Commit:
        """Who made a version, and what they said about it; it takes one request.

        Raises StorageNotFoundError if the version is not in the log, TableError if the commit is
        not xrec's.
        """
        return Log(self.location).commit(version)

    def take_over(self, holder: str) -> Writer:
        """Make this process the driver of the table; an earlier driver's commits are refused.

        holder: who this is, for messages: a host and a process, for instance. Nothing asks whether
        the earlier driver is still at work: that is for the caller to decide.

        Raises LostTableError if another driver takes the table over at the same time and wins,
        TableError if another program committed to the table or the store has no conditional writes.
        """
        check_conditional_writes(self.location)
        log = Log(self.location)
        version = self.newest_version()
        before = log.commit(version)
        for _ in range(_TAKE_OVER_ATTEMPTS):
            mine = Commit.new(before.epoch + 1, holder, "take-over", {})
            if create_surely(log, version + 1, mine, []):
                return Writer(self.location, self.storage, self.snapshot(version + 1))
            # The driver before us committed meanwhile, or another one takes over too.
            version = self.newest_version(version)
            newest = log.commit(version)
            if newest.epoch > before.epoch:
                raise LostTableError(
                    f"{self.location}: {newest.holder} took the table over at the same time "
                    f"(version {version}, {newest.committed_at:%Y-%m-%d %H:%M:%S} UTC)"
                )
        raise LostTableError(
            f"{self.location}: {before.holder} commits so often that the table could not be taken "
            f"over in {_TAKE_OVER_ATTEMPTS} attempts; stop it"
        )

    def pin(self, name: str, version: int) -> None:
        """Keep a version readable: no vacuum that begins after this deletes what it needs.

        A name has one pin; a second call moves it. Raises TableError if the version is not in the
        log, ValueError if the name is not made of letters, digits, _, . and -.
        """
        self.snapshot(version)
        write_pin(self.location, name, version)
        try:
            self.snapshot(version)
        except TableError:
            self.unpin(name)  # a vacuum that had begun before deleted the version
            raise

    def unpin(self, name: str) -> None:
        """Remove a pin; nothing happens if there is none of this name."""
        delete_pin(self.location, name)


def _metadata(
    location: Location, storage: StorageConfig
) -> tuple[deltalake.Schema, list[str], dict[str, str]]:
    """The schema, partition columns and configuration that the table was made with.

    They stand in the first entry, which is one request, and never change: no driver changes them.
    Only if vacuum has deleted that entry, the whole log is read.
    """
    log = Log(location)
    if log.has(0):
        for action in log.actions(0):
            if "metaData" in action:
                made = action["metaData"]
                schema = deltalake.Schema.from_json(made["schemaString"])
                return schema, made["partitionColumns"], made["configuration"]
    newest = log.newest()
    if newest is None:
        raise TableError(f"{location}: holds no table; check the URI, or run its job first")
    delta = open_delta(location, storage, newest)
    there = delta.metadata()
    return delta.schema(), there.partition_columns, there.configuration


def check_conditional_writes(location: Location) -> None:
    """Raise TableError if the store lets a second writer create the same file.

    Raises StorageError if the store takes no writes at all.
    """
    probe = location / OWN_FOLDER / f"conditional-write-{uuid.uuid4().hex}"
    try:
        probe.create_bytes(b"1")
        answer = "a file was created twice" if probe.create_bytes(b"2") else ""
    except StorageError as error:
        probe.write_bytes(b"3")  # raises if it is not the condition that the store refuses
        answer = str(error)
    finally:
        probe.delete()
    if answer:
        raise TableError(
            f"{location}: the store has no conditional writes (If-None-Match), without which two "
            f"drivers could lose rows: {answer}; use a store that has them"
        )


def refuse_other_files(location: Location) -> None:
    """Raise TableError if a folder holds anything but xrec's own folder and the log.

    A table can be made only where this raises nothing.
    """
    spared = (f"{OWN_FOLDER}/", f"{FOLDER}/")
    others = [name for name in location.files() if not name.startswith(spared)]
    if others:
        raise TableError(
            f"{location}: holds no table but {len(others)} other files, such as {others[0]}: the "
            "output of an older version of xrec, or of something else; give another output URI, or "
            "delete them"
        )
