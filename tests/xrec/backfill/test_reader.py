"""Readers get the rows of one published version, as deltalake, without code of xrec, reads them."""

import pytest

from tests.world.here import Place
from tests.xrec.backfill.runs import pairs_of, published_rows
from tests.xrec.bulk.toy_run import toy_run
from xrec.backfill import read, read_explanations, read_failed
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, TableError
from xrec.schemas import FAILED, GENERATED

ALL = tuple(f"u{user} i{item}" for user in range(6) for item in range(2))


@pytest.mark.usefixtures("actors_here")
def test_read_gives_the_rows_of_a_version(runs):
    uri, toy = runs.output.uri, runs.toy(mute=("u1 i0", "u4 i1"))
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        read(uri)
    for retry in (None, "all"):
        runs.run(*ALL, "nobody i0", toy=toy, retry_failed=retry)
        runs.heal()
    for version, num_failed in ((0, 3), (1, 1), (None, 1)):
        found = []
        for reader, schema, failed in ((read, GENERATED, False), (read_failed, FAILED, True)):
            dataset = reader(uri, version)
            assert set(dataset.schema.names) == {"status", "bucket", *schema.names}
            rows = dataset.to_table(columns=schema.names).to_pylist()
            rows.sort(key=lambda row: (row["user_id"], row["item_id"]))
            expected = published_rows(runs.output, failed, version)
            assert rows == [{name: row[name] for name in schema.names} for row in expected]
            found.append(rows)
        assert sorted(pairs_of(found[0] + found[1])) == sorted({*ALL, "nobody i0"})
        assert len(found[1]) == num_failed
    table = read_explanations(uri)
    assert table.schema == GENERATED
    by_pair = [("user_id", "ascending"), ("item_id", "ascending")]
    assert table.sort_by(by_pair).to_pylist() == found[0]
    with pytest.raises(TableError, match="version 7 is not there; the table has 0 to 1"):
        read(uri, 7)


def test_read_of_a_table_of_something_else_is_refused(tmp_path):
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.complete()
    for reader in (read, read_failed, read_explanations):
        with pytest.raises(ArtifactMismatchError, match=r"without the columns .*; check the URI"):
            reader(toy.run.output.uri)
