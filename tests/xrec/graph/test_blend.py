"""The blend of two models against dense score matrices and numpy's SVD."""

import numpy as np
import pytest
import torch
from torch import Tensor

from xrec.graph.blend import blend, score_norm, settled
from xrec.graph.partition import Partition

NUM_USERS, NUM_ITEMS, DIM = 23, 17, 4
ALONE = Partition.whole(NUM_USERS + NUM_ITEMS)


def model(seed: int, dim: int = DIM) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_USERS, dim, generator=generator), torch.randn(
        NUM_ITEMS, dim, generator=generator
    )


def scores(vectors: tuple[Tensor, Tensor]) -> Tensor:
    return vectors[0] @ vectors[1].T


@pytest.mark.parametrize("weight", [0.2, 3.0])
def test_blend_is_the_nearest_matrix_of_the_rank_to_the_weighted_sum(weight):
    trained, start = scores(model(0)).double().numpy(), scores(model(1)).double().numpy()
    u, s, vt = np.linalg.svd(
        trained + weight * np.linalg.norm(trained) / np.linalg.norm(start) * start
    )
    users, items = blend(model(0), model(1), weight, ALONE)
    assert users.shape == (NUM_USERS, DIM)
    assert items.shape == (NUM_ITEMS, DIM)
    np.testing.assert_allclose(
        scores((users, items)).numpy(), (u[:, :DIM] * s[:DIM]) @ vt[:DIM], rtol=1e-4, atol=1e-4
    )
    # Both sides get the square root of each singular value.
    np.testing.assert_allclose(torch.linalg.norm(users, dim=0).numpy(), s[:DIM] ** 0.5, rtol=1e-4)
    assert (items.gather(0, items.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_blend_with_itself_only_scales_the_scores():
    """Both have the same span, so the joined bases have a lower rank than they have columns."""
    torch.testing.assert_close(
        scores(blend(model(0), model(0), 0.5, ALONE)), 1.5 * scores(model(0)), rtol=1e-4, atol=1e-4
    )


def test_blend_with_weight_zero_or_a_start_of_zeros_leaves_the_trained_vectors():
    trained, (users, items) = model(0), model(1)
    for start, weight in (((users, items), 0.0), ((users * 0, items), 0.5)):
        assert blend(trained, start, weight, ALONE) is trained


@pytest.mark.parametrize(("num_users", "num_items"), [(9, 3), (3, 9), (2, 2)])
def test_blend_of_fewer_users_or_items_than_dimensions_keeps_the_dimensions(num_users, num_items):
    users, items = model(0)
    start_users, start_items = model(1)
    trained = users[:num_users], items[:num_items]
    found = blend(trained, (start_users[:num_users], start_items[:num_items]), 0.2, ALONE)
    assert [table.shape for table in found] == [(num_users, DIM), (num_items, DIM)]
    start = scores((start_users[:num_users], start_items[:num_items]))
    weight = 0.2 * score_norm(trained, ALONE) / float(torch.linalg.norm(start))
    torch.testing.assert_close(
        scores(found), scores(trained) + weight * start, rtol=1e-3, atol=1e-4
    )


def test_settled_keeps_what_moved_little_after_the_rotation_and_moves_the_others():
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randn(400, 6, generator=generator)
    earlier[7] = 0  # without a vector then
    moves = torch.randn(400, 6, generator=generator) * 1e-3
    moves[[3, 5, 7]] = 2.0
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    found = settled((earlier + moves) @ rotation, earlier, 0.05)
    assert (found != earlier).any(dim=1).nonzero().flatten().tolist() == [3, 5, 7]
    assert torch.allclose(found, earlier + moves, atol=0.15)
    assert not (settled(earlier @ rotation, earlier, 0.0) == earlier).all()
