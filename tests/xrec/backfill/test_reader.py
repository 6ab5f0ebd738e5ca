"""Readers get the rows of one published version, each once, whatever is under way meanwhile.

The oracle is deltalake, which reads the table without code of xrec.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, published_rows, run
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.bulk.conftest import Place
from tests.xrec.bulk.toy_run import toy_run
from xrec.backfill import read, read_explanations, read_failed
from xrec.backfill.task import MakeExplainTask
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, TableError
from xrec.generate.explainer import Explainer
from xrec.schemas import FAILED, GENERATED

pytestmark = pytest.mark.usefixtures("actors_here")

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
ALL = tuple(f"u{user} i{item}" for user in range(6) for item in range(2))
MUTE = ("u1 i0", "u4 i1")


@pytest.fixture(params=["local", "s3"])
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of a run, once on disk and once on the object store."""
    if request.param == "local":
        return {}
    s3 = request.getfixturevalue("s3")
    return {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}


def check(config: Any, num_failed: int, version: int | None = None) -> list[dict[str, Any]]:
    """See that both readers give the rows that deltalake gives; returns the explanations."""
    found = {}
    for reader, schema, failed in ((read, GENERATED, False), (read_failed, FAILED, True)):
        dataset = reader(output_of(config).uri, version, config.storage)
        assert set(dataset.schema.names) == {"status", "bucket", *schema.names}
        rows = dataset.to_table(columns=schema.names).to_pylist()
        rows.sort(key=lambda row: (row["user_id"], row["item_id"]))
        expected = published_rows(output_of(config), failed, version)
        assert rows == [{name: row[name] for name in schema.names} for row in expected]
        found[failed] = rows
    assert sorted(pairs_of(found[False] + found[True])) == sorted({*ALL, "nobody i0"})
    assert len(found[True]) == num_failed
    return found[False]


def test_read_sees_nothing_of_a_retry_until_it_is_published_and_versions_never_change(
    make_config: MakeConfig, pairs: MakePairs, values: dict[str, Any], muted: Path
) -> None:
    config, given = make_config(**values), pairs(*ALL, "nobody i0")
    toy = Toy(mute=MUTE, muted=str(muted))
    run(config, given, load=toy)
    before = check(config, num_failed=3)
    opened = read(output_of(config).uri, storage=config.storage)
    muted.unlink()
    looked: list[bool] = []

    class Looking(Toy):
        def __call__(self, made: MakeExplainTask) -> Explainer:
            assert check(config, num_failed=3) == before
            looked.append(True)
            return super().__call__(made)

    run(make_config(**values, retry_failed="all"), given, load=Looking())
    assert looked
    after = check(config, num_failed=1)
    assert check(config, num_failed=3, version=0) == before
    assert opened.to_table().num_rows == len(before)
    table = read_explanations(output_of(config).uri, config.storage)
    assert table.schema == GENERATED
    assert table.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist() == after
    with pytest.raises(TableError, match="version 7 is not there; the table has 0 to 1"):
        read(output_of(config).uri, 7, config.storage)


@pytest.mark.parametrize("version", [None, 3])
def test_read_of_nothing_is_refused(
    make_config: MakeConfig, values: dict[str, Any], version: int | None
) -> None:
    config = make_config(**values)
    with pytest.raises(ArtifactNotFoundError, match="nothing was published there"):
        read(output_of(config).uri, version, config.storage)


def test_read_of_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    toy = toy_run(Place(str(tmp_path / "words"), StorageConfig()), tmp_path)
    toy.complete()
    for reader in (read, read_failed, read_explanations):
        with pytest.raises(ArtifactMismatchError, match=r"without the columns .*; check the URI"):
            reader(toy.run.output.uri)
