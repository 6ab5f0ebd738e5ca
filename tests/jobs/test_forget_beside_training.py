"""People are not forgotten while a training works, which may still write what it read of them."""

from tests.world.program import said, xrec
from tests.world.shop import SAMPLE, write_yaml
from xrec.storage import open_location
from xrec.train.lease import only_driver


def test_forget_deletes_nothing_while_a_training_works(tmp_path):
    values = {"workspace": str(tmp_path / "w"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    said("prepare", path)
    checkpoints = open_location(f"{tmp_path}/w/graph/checkpoints")
    forget = ("forget", path, "--user", "resident-3", "--json")
    with only_driver(checkpoints, holder="another machine, process 7"):
        code, _, err = xrec(*forget)
        assert (code, "another machine, process 7 trains" in err) == (1, True), err
        assert (tmp_path / "w/dataset/manifest.json").exists()
    checkpoints.delete()
    code, _, err = xrec(*forget)
    assert code == 0, err
    assert not (tmp_path / "w/dataset").exists()
