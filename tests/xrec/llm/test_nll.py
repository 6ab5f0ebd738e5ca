"""Our NLL and its gradient equal torch's cross entropy and autograd in float64 and float32."""

import pytest
import torch

from xrec.llm.examples import IGNORE, label_nll


def make_logits(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, 5, 11), some of them large, and labels (3, 5).

    The first two labels of row 0 and all labels of row 2 are to be ignored.
    """
    generator = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(3, 5, 11, generator=generator)).to(dtype)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, :2] = labels[2] = IGNORE
    return logits, labels


def test_label_nll_and_its_gradient_equal_torch_in_float64() -> None:
    logits, labels = make_logits()
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    expected_input = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        expected_input.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    )
    (expected * weights).sum().backward()
    own_input = logits.clone().requires_grad_()
    nll = label_nll(own_input, labels)
    (nll * weights).sum().backward()
    torch.testing.assert_close(nll.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_input.grad.double(), expected_input.grad, rtol=1e-5, atol=1e-7)
    assert (
        torch.count_nonzero(nll[labels == IGNORE])
        == torch.count_nonzero(own_input.grad[labels == IGNORE])
        == 0
    )


def test_label_nll_of_bfloat16_logits_is_summed_in_float32() -> None:
    logits, labels = make_logits(torch.bfloat16)
    nll = label_nll(logits, labels)
    assert nll.dtype == torch.float32
    assert torch.equal(nll, label_nll(logits.float(), labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_label_nll_holds_the_logits_and_one_gradient_in_their_dtype(dtype: torch.dtype) -> None:
    logits, labels = make_logits(dtype)
    logits.requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        nll = label_nll(logits, labels)
    nll.sum().backward()
    assert {tensor.data_ptr() for tensor in saved} == {logits.data_ptr(), labels.data_ptr()}
    assert logits.grad.dtype == dtype
