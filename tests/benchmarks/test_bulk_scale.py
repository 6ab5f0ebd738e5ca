"""The benchmark of a bulk run's driver measures what it says."""

from benchmarks.bulk_scale import do_the_rest, look, prepare
from xrec.bulk import published


def test_bulk_scale_driver_does_what_is_left(tmp_path):
    output = tmp_path / "out"
    assert prepare(output, 700, 300) > 0
    assert look(output, 700)["survey_s"] > 0
    fields = do_the_rest(output, 700, 300, on_ray=False)
    assert fields["peak_mb"] >= fields["base_mb"] > 0
    assert published(str(output)).dataset().count_rows() == 700
