"""Upkeep while others write: a run at work is kept, and a commit that lost its version is made."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.world.here import PoolHere
from tests.xrec.bulk.test_upkeep import HOUR, age
from tests.xrec.bulk.toy_run import OTHER, finished, rows_of
from xrec.bulk import delete_runs, empty, rollback, vacuum
from xrec.bulk.runs.run import RUNS
from xrec.errors import LeaseError
from xrec.storage.local import LocalLocation


def test_vacuum_spares_a_superseded_run_of_which_one_file_is_new(here):
    superseded = here("x", identity=OTHER)
    superseded.complete()
    finished(here)
    folder = superseded.run.folder
    before = folder.files()
    age(here, f"{superseded.run.record.nonce}/results/0000000")
    vacuum(here.uri, HOUR)
    assert folder.files() == before
    age(here)
    vacuum(here.uri, HOUR)
    assert not folder.files()


def test_delete_runs_deletes_nothing_while_a_driver_works(here):
    toy = here()

    def delete(chunk):
        before = (here.location / RUNS).files()
        with pytest.raises(LeaseError):
            delete_runs(here.uri)
        assert (here.location / RUNS).files() == before

    toy.complete(PoolHere(before=delete))
    assert rows_of(toy.published()) == toy.rows
    assert delete_runs(here.uri) == 1


@dataclass(frozen=True)
class Interrupted(LocalLocation):
    """A location at which something happens each time the list of takedowns is read."""

    meanwhile: Callable[[], object] = field(default=lambda: None)

    def stamps(self) -> dict[str, str]:
        self.meanwhile()
        return super().stamps()


def test_rollback_whose_version_another_command_took_is_made_again(here):
    toy = finished(here)
    steps = [lambda: None, lambda: empty(here.uri)]  # to open the table, then to go back

    def meanwhile():
        if steps:
            steps.pop(0)()

    busy = Interrupted(here.location.uri, here.location.path, meanwhile=meanwhile)
    here.patch.setattr("xrec.bulk.upkeep.open_location", lambda *_: busy)
    assert rollback(here.uri, 0) == 3
    assert not steps
    assert len(rows_of(toy.published(), "failed")) == 12
