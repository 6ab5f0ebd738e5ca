"""Each model's losses against its equations in numpy, pair by pair, and what it writes."""

from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.world.models import HIDDEN_SIZE, toy_model
from xrec.lab.baselines.att2seq import Att2Seq
from xrec.lab.baselines.codec import BEGIN, END
from xrec.lab.baselines.data import TextExample, collate
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.nrt import NRT
from xrec.lab.baselines.pepler import PEPLER
from xrec.lab.baselines.peter import PETER

USERS, ITEMS, TOKENS = 5, 4, 13
SIZES: dict[str, Any] = {"num_users": USERS, "num_items": ITEMS, "num_tokens": TOKENS}
EXAMPLES = [
    TextExample(1, 2, (7, 4, 9, END)),
    TextExample(0, 3, (5, END)),
    TextExample(3, 0, (6, 8)),  # cut, so without an end
]
Arrays = dict[str, np.ndarray]
ModelT = TypeVar("ModelT", bound=nn.Module)


def drawn(model: ModelT, scale: float = 1.0) -> ModelT:
    """Return the model in eval mode with random weights; no bias is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return model.eval()


def arrays(model: nn.Module) -> Arrays:
    return {name: each.detach().double().numpy() for name, each in model.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def linear(p: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return p[f"{name}.weight"] @ x + p.get(f"{name}.bias", 0)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def losses_of(model: nn.Module) -> list[float]:
    with torch.no_grad():
        return [loss.item() for loss in model(collate(EXAMPLES))]


def text_nll(log_p: Any) -> float:
    """Sum over the examples, with log_p(example) the log-probabilities (T, V) at each token."""
    return -sum(
        log_p(each)[place, token] for each in EXAMPLES for place, token in enumerate(each.token_ids)
    )


def inputs_of(example: TextExample) -> list[int]:
    return [BEGIN, *example.token_ids[:-1]]


# Att2Seq


def att2seq() -> Att2Seq:
    return drawn(Att2Seq(**SIZES, embedding_dim=3, hidden_size=4, dropout=0.4), 0.7)


def att2seq_log_p(p: Arrays, pair: TextExample) -> np.ndarray:
    """ln p by the paper's equations, with torch's order of the LSTM's gates (i, f, g, o)."""
    g = [
        p["users.weight"][pair.user_index],
        p["items.weight"][pair.item_index],
        p["ratings.weight"][0],
    ]
    h = np.tanh(linear(p, "encoder", np.concatenate(g))).reshape(2, 4)
    c, found = np.zeros_like(h), []
    for token in inputs_of(pair):
        x = p["words.weight"][token]
        for layer in range(2):
            gates = (
                p[f"lstm.weight_ih_l{layer}"] @ x
                + p[f"lstm.bias_ih_l{layer}"]
                + p[f"lstm.weight_hh_l{layer}"] @ h[layer]
                + p[f"lstm.bias_hh_l{layer}"]
            )
            i, f, new, o = np.split(gates, 4)
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(new)
            x = h[layer] = sigmoid(o) * np.tanh(c[layer])
        scores = [np.exp(np.tanh(linear(p, "score", np.concatenate([x, each]))[0])) for each in g]
        context = sum(score * each for score, each in zip(scores, g, strict=True)) / sum(scores)
        mixed = np.tanh(linear(p, "mix", np.concatenate([context, x])))
        found.append(linear(p, "output", mixed))
    return log_softmax(np.stack(found))


def test_att2seq_loss_is_the_nll_by_the_equations_of_the_paper():
    model = att2seq()
    p = arrays(model)
    assert losses_of(model) == pytest.approx([text_nll(lambda pair: att2seq_log_p(p, pair))], 1e-4)
    model.train()  # dropout
    assert losses_of(model) != losses_of(model)


# NRT


def nrt() -> NRT:
    model = drawn(NRT(**SIZES, embedding_dim=3, hidden_size=4, num_rating_layers=2))
    pairs = collate(EXAMPLES)
    with torch.no_grad():  # some rounded ratings are 0, others 1
        model.rating.weight.mul_(8)
        model.rating.bias.add_(0.5 - model.predicted(pairs.users, pairs.items).mean())
    return model


def nrt_rating(p: Arrays, user: int, item: int) -> float:
    x = np.concatenate([p["users.weight"][user], p["items.weight"][item]])
    for layer in range(3):
        x = sigmoid(linear(p, f"hidden.{layer}", x))
    return float(linear(p, "rating", x)[0])


def nrt_log_p(p: Arrays, pair: TextExample) -> np.ndarray:
    """ln p by the GRU's equations, with torch's order of gates (r, z, n)."""
    user, item = pair.user_index, pair.item_index
    whole = np.eye(2)[int(np.clip(np.rint(nrt_rating(p, user, item)), 0, 1))]
    h = np.tanh(
        linear(
            p, "encoder", np.concatenate([p["users.weight"][user], p["items.weight"][item], whole])
        )
    )
    found = []
    for token in inputs_of(pair):
        of_x = p["gru.weight_ih_l0"] @ p["words.weight"][token] + p["gru.bias_ih_l0"]
        of_h = p["gru.weight_hh_l0"] @ h + p["gru.bias_hh_l0"]
        (xr, xz, xn), (hr, hz, hn) = np.split(of_x, 3), np.split(of_h, 3)
        z, n = sigmoid(xz + hz), np.tanh(xn + sigmoid(xr + hr) * hn)
        h = (1 - z) * n + z * h
        found.append(linear(p, "output", h))
    return log_softmax(np.stack(found))


def test_nrt_losses_are_the_nll_and_the_squared_errors_of_liked_and_drawn_items():
    model = nrt()
    p, pairs = arrays(model), collate(EXAMPLES)
    torch.manual_seed(7)
    with torch.no_grad():
        losses = model(pairs).tolist()
    torch.manual_seed(7)
    others = torch.randint_like(pairs.items, ITEMS).tolist()
    errors = sum(
        (nrt_rating(p, each.user_index, each.item_index) - 1) ** 2
        + nrt_rating(p, each.user_index, other) ** 2
        for each, other in zip(EXAMPLES, others, strict=True)
    )
    assert losses == pytest.approx([text_nll(lambda pair: nrt_log_p(p, pair)), errors], rel=1e-4)
    assert model.counts(pairs).tolist() == [8, 6]
    likes = {nrt_rating(p, each.user_index, each.item_index) > 0.5 for each in EXAMPLES}
    assert len(likes) == 2  # otherwise the one-hot would not be tested


# PETER


def peter() -> PETER:
    sizes = {"embedding_dim": 8, "feedforward_size": 12, "dropout": 0.4}
    return drawn(PETER(**SIZES, **sizes), 0.5)


def test_peter_losses_are_the_nll_of_the_text_and_of_its_words_in_any_order():
    model = peter()

    def log_p(pair: TextExample) -> np.ndarray:
        """ln p at the user, the item and each token, for this text alone, (2 + T, V)."""
        with torch.no_grad():
            hidden = model.hidden(collate([pair]), torch.tensor([inputs_of(pair)]))
            return log_softmax(model.output(hidden)[0].double().numpy())

    text = text_nll(lambda pair: log_p(pair)[2:])
    context = -sum(
        log_p(pair)[1, token] for pair in EXAMPLES for token in pair.token_ids if token != END
    )
    assert losses_of(model) == pytest.approx([text, context], rel=1e-4)
    assert model.counts(collate(EXAMPLES)).tolist() == [8, 6]


# PEPLER


def pepler() -> PEPLER:
    torch.manual_seed(5)
    model = PEPLER(toy_model(), END, num_users=USERS, num_items=ITEMS).eval()
    with torch.no_grad():
        for table in (model.users, model.items):
            table.weight.copy_(torch.randn_like(table.weight) * 0.3)
    return model


def pepler_log_p(model: PEPLER, pair: TextExample, text: tuple[int, ...]) -> np.ndarray:
    """ln p of each next token, with a whole pass for each and without padding, (1 + T, V)."""
    words, found = model.language_model.get_input_embeddings().weight, []
    for length in range(len(text) + 1):
        read = [model.users.weight[pair.user_index], model.items.weight[pair.item_index]]
        with torch.no_grad():
            read = torch.stack([*read, *words[list(text[:length])]])[None]
            found.append(model.language_model(inputs_embeds=read).logits[0, -1].double().numpy())
    return log_softmax(np.stack(found))


def test_pepler_loss_is_the_nll_after_user_and_item_and_the_vectors_are_trained_first():
    model = pepler()
    nll = text_nll(lambda pair: pepler_log_p(model, pair, pair.token_ids[:-1]))
    assert losses_of(model) == pytest.approx([nll], rel=1e-4)
    model.begin_phase(0)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"users.weight", "items.weight"}
    model.begin_phase(1)
    assert all(each.requires_grad for each in model.parameters())


# Writing


@pytest.mark.parametrize("make", [att2seq, nrt, peter])
def test_writer_takes_the_likeliest_word_until_the_end_whatever_pairs_are_beside(make):
    model = make()
    pairs = [TextExample(user, item, ()) for user in range(USERS) for item in range(ITEMS)]
    with torch.no_grad():
        model.output.bias[END] += 2.75 if make is peter else 1
    together = model.write(collate(pairs), 6)
    assert len({len(text) for text in together}) > 1  # some end earlier
    for pair, text in zip(pairs, together, strict=True):
        assert model.write(collate([pair]), 6) == [text]
        for length, token in enumerate(text):
            so_far = torch.tensor([[BEGIN, *text[:length]]])
            with torch.no_grad():
                logits = model.logits(collate([pair]), so_far)[0, -1]
            logits[[0, 1, 3]] = -torch.inf
            assert token == int(logits.argmax())


def test_pepler_writes_the_likeliest_token_until_the_end():
    model = pepler()
    pairs = [TextExample(user, item, ()) for user in range(USERS) for item in range(ITEMS)]
    for pair, text in zip(pairs, model.write(collate(pairs), 5), strict=True):
        greedy = pepler_log_p(model, pair, tuple(text[:-1])).argmax(axis=1).tolist()
        assert text == greedy
        assert len(text) <= 6
        assert len(text) <= 5 or text[-1] == END


IDS = torch.tensor([[5, 9, 3, 17]])


@pytest.fixture
def lora():
    """A toy model with low-rank weights that are not zeros any more."""
    pytest.importorskip("peft", reason="the extra compare is not installed")
    made = LoRA(toy_model(), rank=3)
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return made


def test_lora_merged_model_is_an_ordinary_one_with_the_same_logits(lora):
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers, of rank 3.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in lora.parameters() if each.requires_grad) == 6 * sizes
    expected = lora.language_model(IDS).logits
    plain = lora.merged()
    assert torch.allclose(plain(IDS).logits, expected, atol=1e-3)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module) for module in plain.modules()} == {
        type(module) for module in toy_model().modules()
    }
    assert not any(each.requires_grad for each in plain.parameters())
