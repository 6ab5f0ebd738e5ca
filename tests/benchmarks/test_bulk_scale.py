"""The benchmark of a bulk run's driver measures what it says."""

from pathlib import Path

from benchmarks.bulk_scale import commit_most, drive_the_rest
from xrec.bulk import read_status


def test_bulk_scale_driver_does_what_is_left(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert commit_most(output, 700, 300) > 0
    assert read_status(str(output)).num_left == 300
    fields = drive_the_rest(output, 700)
    assert (fields["num_commits"], fields["checkpoint_s"][1]) == (1, 100)
    assert fields["peak_mb"] >= fields["base_mb"] > 0
    assert read_status(str(output)).num_left == 0
