"""The nights of a project: list their folders, and delete those that nothing needs any more."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from xrec import bulk
from xrec.backfill import last_night, resolve
from xrec.config import BackfillConfig
from xrec.nights.places import places_in
from xrec.storage import (
    CHECKPOINTS,
    Location,
    delete_artifact,
    location_of,
    open_location,
    refuse_driver,
)

State = Literal["published", "kept", "candidate", "old"]


class NightFolder(NamedTuple):
    """The folder of a night.

    state: published, if readers see what was made in it; kept, if a version within the retention
    was made from it; candidate, if it came after the published one and was written to within the
    retention; else old.
    """

    number: int
    state: State
    written_at: datetime
    num_bytes: int


def list_nights(config: BackfillConfig, retention: timedelta) -> list[NightFolder]:
    """Return the folders of the project's nights, latest first.

    Raises what `find_published` raises.
    """
    nights, since = location_of(config, "nights"), datetime.now(UTC) - retention
    number, now = last_night(config)
    current = {*now.values(), *filter(None, config.artifacts.values())}
    kept = {resolve(config, uri) for uri in _made_from(location_of(config, "explanations"), since)}
    found = []
    for name in sorted(filter(str.isdigit, nights.folders()), key=int, reverse=True):
        details = (nights / name).details()
        written_at = max(map(bulk.time_of, details.values()), default=since)

        def is_in(uris: set[str], prefix: str = f"{nights / name}/") -> bool:
            return any(uri.startswith(prefix) for uri in uris)

        state: State = "published" if is_in(current) else "kept" if is_in(kept) else "old"
        if state == "old" and int(name) > number and written_at > since:
            state = "candidate"
        num_bytes = sum(int(info["size"]) for info in details.values())
        found.append(NightFolder(int(name), state, written_at, num_bytes))
    return found


def prune_nights(config: BackfillConfig, retention: timedelta) -> list[int]:
    """Delete the old nights, and return their numbers; raise LeaseError if one is being trained."""
    workspace = open_location(config.workspace.rstrip("/"), config.storage)
    old = [night.number for night in list_nights(config, retention) if night.state == "old"]
    for number in old:
        folder = workspace / "nights" / str(number)
        for place in places_in(folder):
            refuse_driver(place.location / CHECKPOINTS)
            if place.kind != "other":
                delete_artifact(place.location)
        folder.delete()
    return old


def _made_from(table: Location, since: datetime) -> Iterator[str]:
    """Yield the URIs of what each version was made from that readers saw after `since`."""
    log = bulk.open_log(table)
    for version in range(log.version, -1, -1) if log else ():
        assert log is not None
        if (shown := log.shown(version)) is not None:
            yield from shown.manifest.metrics.get("made_from", {}).values()
        made_at = datetime.fromtimestamp(int(log.info(version).get("timestamp", 0)) / 1000, UTC)
        if made_at < since:  # the versions before it were replaced before `since`
            return
