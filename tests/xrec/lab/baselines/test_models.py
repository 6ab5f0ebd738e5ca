"""Each model against its equations in plain numpy, or by whole passes for each token."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy import HIDDEN_SIZE, explanation_nll, toy_model
from xrec.errors import ModelError
from xrec.lab.baselines.codec import BEGIN, END
from xrec.lab.baselines.data import TextExample, collate, collate_pairs
from xrec.lab.baselines.lora import LoRA, collate_prompts
from xrec.lab.baselines.model import Ratings, Writer
from xrec.lab.baselines.pepler import PEPLER
from xrec.lab.baselines.peter import PETER, may_see, sines
from xrec.lab.baselines.recurrent import NRT, Att2Seq
from xrec.llm.examples import Example

USERS, ITEMS, TOKENS, D, H, A = 5, 4, 13, 3, 6, 2
COUNTS: dict[str, Any] = {"num_users": USERS, "num_items": ITEMS}
SIZES: dict[str, Any] = {**COUNTS, "num_tokens": TOKENS, "begin_id": BEGIN}
SCALE = Ratings(1, 5)
EXAMPLES = [
    TextExample(1, 2, (7, 4, 9, END), 3, (4, 5), rating=4.0),
    TextExample(0, 3, (5, END), 1, (6, 0)),  # no rating
    TextExample(3, 0, (6, 8), 2, (5, 6), rating=1.0),  # cut, so without an end
]
Arrays = dict[str, np.ndarray]
ModelT = TypeVar("ModelT", bound=nn.Module)


def drawn(model: ModelT, scale: float = 1.0) -> ModelT:
    """The model in eval mode with weights at random; no bias is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return model.eval()


def att2seq() -> Att2Seq:
    return drawn(Att2Seq(**SIZES, embedding_dim=D, hidden_size=H, num_layers=2, dropout=0.5))


def nrt(ratings: Ratings | None = SCALE) -> NRT:
    sizes = {"embedding_dim": D, "hidden_size": H, "num_rating_layers": 3}
    model = drawn(NRT(**SIZES, **sizes, ratings=ratings))
    if model.rating is not None:
        with torch.no_grad():
            model.rating.output.weight.mul_(8)  # so that whole ratings differ
    return model


def peter(ratings: Ratings | None = SCALE) -> PETER:
    sizes = {"embedding_dim": 8, "feedforward_size": 12, "dropout": 0.4}
    return drawn(PETER(**SIZES, **sizes, num_aspect_words=A, ratings=ratings), 0.5)


def pepler() -> PEPLER:
    model = PEPLER(toy_model(vocab_size=64), **COUNTS).eval()
    drawn(nn.ModuleList([model.users, model.items]), 0.3)
    return model


def arrays(model: nn.Module) -> Arrays:
    return {name: each.detach().double().numpy() for name, each in model.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def by_lstm(model: Att2Seq, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """ln p of each token of the text, by the LSTM's equations (torch's order of gates)."""
    p, found = arrays(model), []
    both = np.concatenate([p["users.weight"][pair.user_index], p["items.weight"][pair.item_index]])
    flat = np.tanh(p["encoder.weight"] @ both + p["encoder.bias"])
    h = np.stack([flat[:H], flat[H:]])  # a piece for each layer
    c = np.zeros_like(h)
    for previous, token in zip([BEGIN, *text[:-1]], text, strict=True):
        x = p["words.weight"][previous]
        for layer in range(2):
            gates = p[f"lstm.weight_ih_l{layer}"] @ x + p[f"lstm.bias_ih_l{layer}"]
            gates += p[f"lstm.weight_hh_l{layer}"] @ h[layer] + p[f"lstm.bias_hh_l{layer}"]
            i, f, g, o = np.split(gates, 4)
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
            x = h[layer] = sigmoid(o) * np.tanh(c[layer])
        found.append(log_softmax(p["output.weight"] @ x + p["output.bias"])[token])
    return np.array(found)


def nrt_rating(p: Arrays, pair: TextExample) -> float:
    x = np.concatenate([p["users.weight"][pair.user_index], p["items.weight"][pair.item_index]])
    for layer in range(3):
        x = sigmoid(p[f"rating.hidden.{layer}.weight"] @ x + p[f"rating.hidden.{layer}.bias"])
    return float((p["rating.output.weight"] @ x + p["rating.output.bias"])[0])


def by_gru(model: NRT, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """ln p of each token, by the GRU's equations in torch's order of gates (r, z, n)."""
    p, found = arrays(model), []
    read = [p["users.weight"][pair.user_index], p["items.weight"][pair.item_index]]
    if "rating.output.bias" in p:
        one_hot = np.zeros(5)
        one_hot[int(np.clip(np.rint(nrt_rating(p, pair)), 1, 5)) - 1] = 1
        read.append(one_hot)
    h = np.tanh(p["encoder.weight"] @ np.concatenate(read) + p["encoder.bias"])
    for previous, token in zip([BEGIN, *text[:-1]], text, strict=True):
        of_x = p["gru.weight_ih_l0"] @ p["words.weight"][previous] + p["gru.bias_ih_l0"]
        of_h = p["gru.weight_hh_l0"] @ h + p["gru.bias_hh_l0"]
        (xr, xz, xn), (hr, hz, hn) = np.split(of_x, 3), np.split(of_h, 3)
        z, n = sigmoid(xz + hz), np.tanh(xn + sigmoid(xr + hr) * hn)
        h = (1 - z) * n + z * h
        found.append(log_softmax(p["output.weight"] @ h + p["output.bias"])[token])
    return np.array(found)


def peter_logits(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """The logits at all places, computed for this one text, (2 + A + 1 + T, V)."""
    pairs = collate_pairs([pair.user_index], [pair.item_index], [pair.aspect_ids])
    with torch.no_grad():
        hidden = model.hidden(pairs, torch.tensor([[BEGIN, *text]]))
        return model.output(hidden)[0].double().numpy()


def by_whole_peter(model: PETER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    log_p = log_softmax(peter_logits(model, pair, text[:-1]))[2 + A :]
    return np.array([log_p[place, token] for place, token in enumerate(text)])


def by_whole_passes(model: PEPLER, pair: TextExample, text: Sequence[int]) -> np.ndarray:
    """ln p of each token, with one whole pass for each, and no padding."""
    words = model.language_model.get_input_embeddings().weight
    both = [model.users.weight[pair.user_index], model.items.weight[pair.item_index]]
    found = []
    for place, token in enumerate(text):
        read = torch.stack([*both, *words[list(text[:place])]])[None]
        with torch.no_grad():
            logits = model.language_model(inputs_embeds=read).logits[0, -1].double()
        found.append(logits.log_softmax(0)[token].item())
    return np.array(found)


MODELS: dict[str, tuple[Callable[[], Any], Callable[..., np.ndarray]]] = {
    "att2seq": (att2seq, by_lstm),
    "nrt": (nrt, by_gru),
    "nrt without ratings": (lambda: nrt(None), by_gru),
    "peter": (peter, by_whole_peter),
    "pepler": (pepler, by_whole_passes),
}


@pytest.mark.parametrize("name", MODELS)
def test_text_loss_is_the_nll_of_the_tokens_that_count(name: str) -> None:
    make, oracle = MODELS[name]
    model = make()
    with torch.no_grad():
        found = model(collate(EXAMPLES))[0].item()
    expected = -sum(oracle(model, each, each.token_ids).sum() for each in EXAMPLES)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_model_writes_with_the_probabilities_that_it_learns(name: str) -> None:
    make, oracle = MODELS[name]
    model, text = make(), [7, 4, 9]
    assert isinstance(model, Writer)
    one, other = EXAMPLES[0], EXAMPLES[2]  # beside it stands another pair
    pairs = collate_pairs(
        [one.user_index, other.user_index],
        [one.item_index, other.item_index],
        [one.aspect_ids, other.aspect_ids],
    )
    with torch.no_grad():
        step = model.first(pairs)
        found = [step.logits.log_softmax(1)[0, text[0]].item()]
        for previous, token in itertools.pairwise(text):
            step = model.next(step, torch.tensor([previous, 11]))
            found.append(step.logits.log_softmax(1)[0, token].item())
    assert found == pytest.approx(oracle(model, one, text), rel=1e-4)


def test_other_losses_are_ratings_and_words_in_no_order_where_the_model_has_them() -> None:
    batch = collate(EXAMPLES)
    assert att2seq()(batch)[1:].tolist() == nrt(None)(batch)[1:].tolist() == [0, 0]
    model = nrt()
    totals, p = model(batch), arrays(model)
    off = [nrt_rating(p, EXAMPLES[0]) - 4.0, nrt_rating(p, EXAMPLES[2]) - 1.0]
    assert totals[1:].tolist() == pytest.approx([0, off[0] ** 2 + off[1] ** 2], rel=1e-4)
    totals[2].backward()
    assert all(each.grad is None or bool(each.grad.isfinite().all()) for each in model.parameters())
    assert not model.users.weight.grad[0].any()  # whose rating is not known
    assert [each().loss_weights for each in (att2seq, nrt, peter)] == [
        (1.0, 0.0, 0.0),
        (1.0, 0.0, 1.0),
        (1.0, 1.0, 0.1),
    ]


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_peter_context_and_rating_losses_by_hand(ratings: Ratings | None) -> None:
    model = peter(ratings)
    with torch.no_grad():
        totals = model(collate(EXAMPLES))
        context = 0.0
        for each in EXAMPLES:
            log_p = log_softmax(peter_logits(model, each, each.token_ids[:-1]))
            context -= sum(log_p[1, word] for word in each.token_ids if word != END)
        errors = 0.0
        for each in EXAMPLES if ratings else ():
            hidden = model.hidden(collate([each]).pairs, torch.tensor([[BEGIN]]))[0, 0]
            rating = model.rating_output(torch.sigmoid(model.rating_hidden(hidden))).item()
            errors += 0.0 if np.isnan(each.rating) else (rating - each.rating) ** 2
    assert totals[1:].tolist() == pytest.approx([context, errors], rel=1e-4)


def test_peter_mask_is_causal_but_for_the_user_who_sees_the_item() -> None:
    #        u  i  b  w
    assert may_see(4).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("place", range(2 + A + 4))
def test_peter_changed_place_changes_those_that_may_see_it_and_no_others(place: int) -> None:
    """The whole model obeys the mask: u, i, two aspects, the begin token, three words."""
    model = peter()
    pairs, text = collate_pairs([1], [2], [(4, 5)]), torch.tensor([[BEGIN, 6, 7, 8]])

    def hidden(changed: int | None) -> torch.Tensor:
        changes = torch.zeros(1, 2 + A + 4, 8)
        if changed is not None:
            changes[:, changed] = 1.0
        handle = model.dropout.register_forward_hook(lambda *called: called[2] + changes)
        found = model.hidden(pairs, text)[0]
        handle.remove()
        return found

    with torch.no_grad():
        differs = (hidden(place) - hidden(None)).abs().amax(dim=1) > 1e-6
    expected = [other >= place or (other, place) == (0, 1) for other in range(2 + A + 4)]
    assert differs.tolist() == expected


def test_peter_aspect_that_is_none_is_not_seen() -> None:
    model = peter()
    with torch.no_grad():
        before = model.first(collate_pairs([1], [2], [(4, 0)])).logits
        model.words.weight[0] += 1.0  # the vector of padding
        after = model.first(collate_pairs([1], [2], [(4, 0)])).logits
        other = model.first(collate_pairs([1], [2], [(5, 0)])).logits
    assert torch.allclose(before, after, atol=1e-6)
    assert not torch.allclose(before, other, atol=1e-3)


@pytest.mark.parametrize("size", [6, 7])
def test_sines_are_those_of_the_formula(size: int) -> None:
    table = sines(4, size)
    for place, k in itertools.product(range(4), range(size)):
        angle = place / 10000 ** (2 * (k // 2) / size)
        expected = np.cos(angle) if k % 2 else np.sin(angle)
        assert table[place, k].item() == pytest.approx(expected, abs=1e-5)


def test_pepler_trains_the_vectors_first_and_then_everything() -> None:
    model = pepler()
    assert model.num_phases == 2
    model.begin_phase(0)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"users.weight", "items.weight"}
    model.begin_phase(1)
    assert all(each.requires_grad for each in model.parameters())


def test_dropout_is_in_training_only() -> None:
    batch = collate(EXAMPLES)
    for model in (att2seq(), peter()):
        assert torch.equal(model(batch), model(batch))
        model.train()
        assert not torch.equal(model(batch), model(batch))


@pytest.mark.parametrize("ratings", [None, SCALE])
def test_number_of_parameters_at_published_sizes_is_that_of_the_formula(
    ratings: Ratings | None,
) -> None:
    def num(model: nn.Module) -> int:
        return sum(each.numel() for each in model.parameters())

    d, h = 64, 512
    lstm = 2 * (4 * h * h + 4 * h * h + 8 * h)
    tables = (USERS + ITEMS) * d + TOKENS * h
    assert num(Att2Seq(**SIZES)) == tables + 4 * d * h + 2 * h + lstm + h * TOKENS + TOKENS
    d, h, num_ratings = 300, 400, 5 if ratings else 0
    head = (2 * d * h + h) + 3 * (h * h + h) + (h + 1) if ratings else 0
    rest = (2 * d + num_ratings) * h + h + 3 * (d * h + h * h + 2 * h) + h * TOKENS + TOKENS
    assert num(NRT(**SIZES, ratings=ratings)) == (USERS + ITEMS + TOKENS) * d + head + rest
    d, f = 512, 2048
    layer = 3 * (d * d + d) + d * d + d + (d * f + f) + (f * d + d) + 2 * 2 * d
    head = (d * d + d) + (d + 1) if ratings else 0
    expected = (USERS + ITEMS + TOKENS) * d + 2 * layer + (d * TOKENS + TOKENS) + head
    for num_aspect_words in (0, 3):  # PETER+ has no more
        made = PETER(**SIZES, num_aspect_words=num_aspect_words, ratings=ratings)
        assert num(made) == expected


def test_ratings_one_hot_is_of_the_nearest_rating_of_the_scale() -> None:
    found = SCALE.one_hot(torch.tensor([0.2, 1.6, 4.4, 9.0]))
    assert found.argmax(dim=1).tolist() == [0, 1, 3, 4]
    assert found.sum(dim=1).tolist() == [1, 1, 1, 1]


IDS = torch.tensor([[5, 9, 3, 17]])


@pytest.fixture
def lora() -> LoRA:
    """A toy model with low-rank weights that are not zeros any more."""
    pytest.importorskip("peft", reason="the extra compare is not installed")
    made = LoRA(toy_model(), rank=3)
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return made


def test_lora_new_weights_leave_the_model_as_it_is_and_alone_are_trained() -> None:
    pytest.importorskip("peft", reason="the extra compare is not installed")
    model, frozen = (
        LoRA(toy_model().to(torch.bfloat16), rank=3),
        toy_model().to(torch.bfloat16),
    )
    assert torch.equal(model.language_model(IDS).logits, frozen(IDS).logits)
    new = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert all(".lora_" in name for name in new)
    assert {each.dtype for each in new.values()} == {torch.float32}
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in new.values()) == 2 * 3 * sizes


def test_lora_layer_adds_the_scaled_product_of_both_weights(lora: LoRA) -> None:
    layer = lora.language_model.model.layers[1].self_attn.v_proj
    x = torch.randn(2, HIDDEN_SIZE)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + (16.0 / 3) * (x @ a.T) @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_lora_merged_model_is_an_ordinary_one_with_the_same_logits(lora: LoRA) -> None:
    expected = lora.language_model(IDS).logits
    plain = lora.merged()
    assert torch.allclose(plain(IDS).logits, expected, atol=1e-3)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module) for module in plain.modules()} == {
        type(module) for module in toy_model().modules()
    }
    assert not any(each.requires_grad for each in plain.parameters())


def test_lora_loss_is_the_nll_of_the_explanations_after_their_prompts(lora: LoRA) -> None:
    examples = [Example([5, 9, 3], [17, 4, 2]), Example([7], [8, 2])]
    batch = collate_prompts(examples)
    assert batch.counts.tolist() == [5, 0, 0]
    means = dict(explanation_nll(lora.language_model, examples, 1))
    assert lora(batch).tolist() == pytest.approx([3 * means[0] + 2 * means[1], 0, 0], rel=1e-4)


def test_lora_layers_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="the extra compare is not installed")
    monkeypatch.setattr("xrec.lab.baselines.lora.TARGET_MODULES", ("q_proj", "c_attn"))
    with pytest.raises(ModelError, match="no layers named c_attn"):
        LoRA(toy_model(), rank=3)
