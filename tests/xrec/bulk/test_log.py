"""The log of a table: versions that cannot be read, or are not what their writers meant."""

import deltalake
import pytest

from tests.errors import raises
from xrec.bulk.log import Commit, digest_of, open_log, read_published
from xrec.bulk.table import commit_files
from xrec.errors import ArtifactNotFoundError, TableError


def test_missing_log_is_none_and_unreadable_one_is_an_error(here):
    location = here.location
    assert open_log(location) is None
    (location / "_delta_log" / "_started_and_killed.json.tmp").write_bytes(b"")
    assert open_log(location) is None
    with raises(ArtifactNotFoundError, "no_table"):
        read_published(location, "explanations")
    for items in ("a", "b c"):
        here(items).complete()
    with raises(TableError, "no_version", saw=3):
        open_log(location, 3)
    first, second = (location / "_delta_log" / f"{number:020d}.json" for number in range(2))
    log, content = open_log(location), second.read_bytes()
    second.delete()
    with raises(TableError, "broken_log", second.name):
        log.is_sound(1)
    second.write_bytes(content)
    features = [deltalake.TableFeatures.DeletionVectors]
    log.delta.alter.add_feature(features, allow_protocol_versions_increase=True)
    with raises(TableError, "unknown_feature", saw=3):
        open_log(location)
    first.write_bytes(b"{")
    with raises(TableError, "broken_log"):
        open_log(location)


@pytest.mark.parametrize("wrong", ["files", "table"])
def test_version_that_is_not_what_its_writer_meant_is_not_sound(here, wrong):
    here().complete()
    log = open_log(here.location)
    live = "of other files" if wrong == "files" else digest_of(log.files(0))
    table = log.id if wrong == "files" else "deleted since its writer opened it"
    commit = Commit(kind="publish", table=table, live=live, shown=log.shown(0))
    commit_files(here.location, log, log.files(0), log.schema(0), commit)
    log = open_log(here.location)
    assert (log.is_sound(0), log.is_sound(1)) == (True, False)
    log.delta.alter.set_table_properties({"delta.appendOnly": "false"})
    assert not open_log(here.location).is_sound(2)
    with raises(TableError, "not_sound", saw=2):
        read_published(here.location, "explanations")
