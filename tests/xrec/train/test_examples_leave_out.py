"""What training shows of a pair is written without the pair's own review, unless it is told so."""

import pyarrow as pa
import pytest

from tests.world.town import rewrite_dataset
from tests.xrec.train.adapter_town import adapter_data, make_config
from xrec.data.dataset import read_dataset
from xrec.storage import location_of, open_location
from xrec.train.example_shards import _pair_prompts


@pytest.mark.parametrize("leave_out", ["own", "nothing"])
def test_examples_of_training_are_without_the_pairs_own_review(workspace, tmp_path, leave_out):
    source = read_dataset(open_location(f"{workspace}/dataset"))
    pairs = source.explained_pairs("train").select(["user_index", "item_index"])
    for side in ("user", "item"):
        pairs = pairs.append_column(
            f"{side}_profile", pa.array([f"This {side} is {n}." for n in range(pairs.num_rows)])
        )
    rewrite_dataset(tmp_path, source, {"training_profiles": pairs})
    config = make_config(workspace, adapter=tmp_path / "adapter", leave_out=leave_out)
    config = config.model_copy(update={"dataset": f"{tmp_path}/dataset"})
    data = adapter_data(config)
    builder = _pair_prompts(config, read_dataset(location_of(config, "dataset"))).builder
    shown = [builder.show(list(data.train[row].prompt_ids)) for row in range(len(data.train))]
    assert len(shown) == pairs.num_rows
    for number, prompt in enumerate(shown):
        for side in ("user", "item"):
            assert (f"This {side} is {number}." in prompt) is (leave_out == "own")
    assert "is 0." not in builder.show(list(data.validation[0].prompt_ids))
