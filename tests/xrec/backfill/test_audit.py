"""What today's checks would refuse of the texts that are published, and that it is taken down."""

import pytest

from tests.world.program import xrec
from tests.world.shop import write_project
from tests.xrec.backfill.runs import OTHER_DECODING, pairs_of, published_rows
from xrec.bulk import read_takedowns

PAIRS = tuple(f"u{user} i{item}" for user in range(4) for item in range(2))
OF_U1 = ["u1 i0", "u1 i1"]


@pytest.mark.usefixtures("actors_here")
def test_audit_finds_texts_of_a_list_that_grew_and_takes_their_pairs_down(runs, tmp_path):
    runs.run(*PAIRS)
    words = tmp_path / "words.txt"
    words.write_text("# rude\nu1\n")
    path = write_project(tmp_path / "project.yaml", runs.config(*PAIRS))
    command = ["audit", path, f"decoding.text.checks.unsafe_words={words}"]
    code, out, err = xrec(*command)
    lines = out.splitlines()
    assert code == 0, err
    assert [line.split("  ")[:2] for line in lines[:-1]] == [pair.split() for pair in OF_U1]
    assert all("unsafe: 'u1' is on the list" in line for line in lines[:-1])
    assert lines[-1].endswith("2 of 8 texts are refused today; 2 unsafe")
    assert pairs_of(published_rows(runs.output)) == sorted(PAIRS)
    for _ in range(2):  # the second time nothing is left to be found
        code, out, err = xrec(*command, "--takedown")
        assert code == 0, err
    assert "0 of 6 texts are refused today\n" in out
    left = sorted({*PAIRS} - {*OF_U1})
    assert pairs_of(published_rows(runs.output)) == left
    (entry,) = read_takedowns(runs.output).active.values()
    assert (len(entry.rows), entry.reason) == (2, "audit: unsafe")
    runs.run(*PAIRS, decoding=OTHER_DECODING)  # all is written anew
    assert pairs_of(published_rows(runs.output)) == left
