import pytest
import torch

from lorakit.training.objective import pooled

LOGITS = torch.tensor([[1.0, 4.0], [3.0, 0.0], [5.0, 5.0], [-2.0, -1.0]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[2.0, 2.0], [5.0, 5.0], [-2.0, -1.0]]), ("max", [[3.0, 4.0], [5.0, 5.0], [-2.0, -1.0]])],
)
def test_a_rows_logits_are_pooled_over_its_windows(pooling, expected):
    assert pooled(LOGITS, torch.tensor([0, 0, 1, 2]), pooling).tolist() == expected


def test_gradients_reach_the_windows_that_count():
    logits = LOGITS.clone().requires_grad_()
    pooled(logits, torch.tensor([0, 0, 0, 0]), "mean").sum().backward()
    assert torch.equal(logits.grad, torch.full((4, 2), 0.25))
    logits.grad = None
    pooled(logits, torch.tensor([0, 0, 0, 0]), "max").sum().backward()
    assert logits.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
