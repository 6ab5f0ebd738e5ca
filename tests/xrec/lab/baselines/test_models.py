"""Each model's losses against its equations for one pair at a time, and what it writes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

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
ALL_PAIRS = [TextExample(user, item, ()) for user in range(USERS) for item in range(ITEMS)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def drawn(model: nn.Module, scale: float = 1.0) -> Any:
    """Return the model in eval mode with random weights; no bias is zero."""
    torch.manual_seed(2)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * scale)
    return model.eval()


def losses_of(model: nn.Module) -> list[float]:
    return [loss.item() for loss in model(collate(EXAMPLES))]


def nll(logits: Tensor, token_ids: tuple[int, ...]) -> float:
    """Return the sum of the tokens' NLL by the logits (T, V) at each."""
    return -float(logits.log_softmax(-1)[range(len(token_ids)), token_ids].sum())


def inputs_of(example: TextExample) -> Tensor:
    return torch.tensor([BEGIN, *example.token_ids[:-1]])


# Att2Seq


def att2seq() -> Att2Seq:
    return drawn(Att2Seq(**SIZES, embedding_dim=3, hidden_size=4, dropout=0.4), 0.7)


def att2seq_logits(model: Att2Seq, pair: TextExample) -> Tensor:
    tables = zip(
        (model.users, model.items, model.ratings),
        (pair.user_index, pair.item_index, 0),
        strict=True,
    )
    g = [table.weight[row] for table, row in tables]
    first = torch.tanh(model.encoder(torch.cat(g))).view(2, 4)
    hidden, _ = model.lstm(model.words(inputs_of(pair)), (first, torch.zeros(2, 4)))
    rows = []
    for h in hidden:
        scores = torch.cat([torch.tanh(model.score(torch.cat([h, each]))) for each in g])
        context = sum(share * each for share, each in zip(scores.softmax(0), g, strict=True))
        rows.append(model.output(torch.tanh(model.mix(torch.cat([context, h])))))
    return torch.stack(rows)


def test_att2seq_loss_is_the_nll_by_the_equations_of_the_paper():
    model = att2seq()
    expected = sum(nll(att2seq_logits(model, pair), pair.token_ids) for pair in EXAMPLES)
    assert losses_of(model) == pytest.approx([expected], 1e-4)
    model.train()  # dropout
    assert losses_of(model) != losses_of(model)


# NRT


def nrt() -> NRT:
    model = drawn(NRT(**SIZES, embedding_dim=3, hidden_size=4, num_rating_layers=2))
    pairs = collate(EXAMPLES)
    model.rating.weight.mul_(8)  # so that some rounded ratings are 0, others 1
    model.rating.bias.add_(0.5 - model.predicted(pairs.users, pairs.items).mean())
    return model


def nrt_rating(model: NRT, user: int, item: int) -> Tensor:
    x = torch.cat([model.users.weight[user], model.items.weight[item]])
    for layer in range(3):
        x = torch.sigmoid(model.hidden[layer](x))
    return model.rating(x)


def nrt_logits(model: NRT, pair: TextExample) -> Tensor:
    user, item = pair.user_index, pair.item_index
    liked = one_hot(nrt_rating(model, user, item).round().clamp(0, 1).long(), 2)[0]
    read = torch.cat([model.users.weight[user], model.items.weight[item], liked])
    hidden, _ = model.gru(model.words(inputs_of(pair)), torch.tanh(model.encoder(read))[None])
    return model.output(hidden)


def test_nrt_losses_are_the_nll_and_the_squared_errors_of_liked_and_drawn_items():
    model, pairs = nrt(), collate(EXAMPLES)
    torch.manual_seed(7)
    losses = losses_of(model)
    torch.manual_seed(7)
    others = torch.randint_like(pairs.items, ITEMS).tolist()
    liked = [nrt_rating(model, pair.user_index, pair.item_index).item() for pair in EXAMPLES]
    errors = [(rating - 1) ** 2 for rating in liked]
    for pair, other in zip(EXAMPLES, others, strict=True):
        errors.append(nrt_rating(model, pair.user_index, other).item() ** 2)
    text = sum(nll(nrt_logits(model, pair), pair.token_ids) for pair in EXAMPLES)
    assert losses == pytest.approx([text, sum(errors)], rel=1e-4)
    assert model.counts(pairs).tolist() == [8, 6]
    assert len({rating > 0.5 for rating in liked}) == 2  # otherwise the one-hot is not tested


# PETER


def peter() -> PETER:
    sizes = {"embedding_dim": 8, "feedforward_size": 12, "dropout": 0.4}
    return drawn(PETER(**SIZES, **sizes), 0.5)


def test_peter_losses_are_the_nll_of_the_text_and_of_its_words_in_any_order():
    model, text, context = peter(), 0.0, 0.0
    for pair in EXAMPLES:  # at the user, the item and each token of this text alone
        logits = model.output(model.hidden(collate([pair]), inputs_of(pair)[None]))[0]
        text += nll(logits[2:], pair.token_ids)
        words = tuple(token for token in pair.token_ids if token != END)
        context += nll(logits[[1] * len(words)], words)
    assert losses_of(model) == pytest.approx([text, context], rel=1e-4)
    assert model.counts(collate(EXAMPLES)).tolist() == [8, 6]


# PEPLER


def pepler() -> PEPLER:
    torch.manual_seed(5)
    model = PEPLER(toy_model(), END, num_users=USERS, num_items=ITEMS).eval()
    for table in (model.users, model.items):
        table.weight.copy_(torch.randn_like(table.weight) * 0.3)
    return model


def pepler_logits(model: PEPLER, pair: TextExample, text: tuple[int, ...]) -> Tensor:
    """Return the logits (1 + T, V) of each next token, with a pass for each and no padding."""
    words, rows = model.language_model.get_input_embeddings().weight, []
    for length in range(len(text) + 1):
        read = [model.users.weight[pair.user_index], model.items.weight[pair.item_index]]
        read += words[list(text[:length])]
        rows.append(model.language_model(inputs_embeds=torch.stack(read)[None]).logits[0, -1])
    return torch.stack(rows)


def test_pepler_loss_is_the_nll_after_user_and_item_and_the_vectors_are_trained_first():
    model = pepler()
    expected = sum(
        nll(pepler_logits(model, pair, pair.token_ids[:-1]), pair.token_ids) for pair in EXAMPLES
    )
    assert losses_of(model) == pytest.approx([expected], rel=1e-4)
    model.begin_phase(0)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"users.weight", "items.weight"}
    model.begin_phase(1)
    assert all(each.requires_grad for each in model.parameters())


# Writing


@pytest.mark.parametrize("make", [att2seq, nrt, peter])
def test_writer_takes_the_likeliest_word_until_the_end_in_any_batch(make):
    model = make()
    model.output.bias[END] += 2.75 if make is peter else 1
    together = model.write(collate(ALL_PAIRS), 6)
    assert len({len(text) for text in together}) > 1  # some end earlier
    for pair, text in zip(ALL_PAIRS, together, strict=True):
        assert model.write(collate([pair]), 6) == [text]
        for length, token in enumerate(text):
            so_far = torch.tensor([[BEGIN, *text[:length]]])
            logits = model.logits(collate([pair]), so_far)[0, -1]
            logits[[0, 1, 3]] = -torch.inf
            assert token == int(logits.argmax())


def test_pepler_writes_the_likeliest_token_until_the_end():
    model = pepler()
    for pair, text in zip(ALL_PAIRS, model.write(collate(ALL_PAIRS), 5), strict=True):
        assert text == pepler_logits(model, pair, tuple(text[:-1])).argmax(dim=1).tolist()
        assert len(text) <= 6
        assert len(text) <= 5 or text[-1] == END


def test_lora_merged_model_is_an_ordinary_one_with_the_same_logits():
    pytest.importorskip("peft", reason="the extra compare is not installed")
    lora, ids = LoRA(toy_model(), rank=3), torch.tensor([[5, 9, 3, 17]])
    torch.manual_seed(0)
    trained = [weight for weight in lora.parameters() if weight.requires_grad]
    for weight in trained:
        weight.copy_(torch.randn_like(weight) * 0.2)
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers, of rank 3.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in trained) == 6 * sizes
    expected = lora.language_model(ids).logits
    plain, original = lora.merged(), toy_model()
    assert torch.allclose(plain(ids).logits, expected, atol=1e-3)
    assert not torch.allclose(plain(ids).logits, original(ids).logits, atol=1e-1)
    assert set(map(type, plain.modules())) == set(map(type, original.modules()))
    assert not any(each.requires_grad for each in plain.parameters())
