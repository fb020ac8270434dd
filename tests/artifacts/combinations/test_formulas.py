"""Each way to combine, against PEFT's merge functions or the paper's formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.utils import merge_utils
from torch.testing import assert_close

from lorakit.artifacts.combination import Combination, Setting, Update, combinations, nothing_at, truncated
from lorakit.backbone.site import Site

OUT, IN = 7, 5
SITE = Site("layer.q", 0, "q", IN, OUT, "linear")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def updates(number: int = 3, rank: int = 2, *, factored: bool = True) -> list[Update]:
    made = []
    for seed in range(number):
        b, a = drawn(OUT, rank, seed=seed), drawn(rank, IN, seed=100 + seed)
        made.append(Update(rank, (b, a)) if factored else Update(rank, None, b @ a))
    return made


def combined(name: str, given: list[Update], **setting: object) -> torch.Tensor:
    way: Combination = combinations.get(name)
    result = way.combine(given, Setting(**setting))  # type: ignore[arg-type]
    return result[0] @ result[1] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", ["linear", "concat", "svd", "task_arithmetic"])
@pytest.mark.parametrize("factored", [True, False])
def test_weighted_sums(name: str, factored: bool):
    given, weights = updates(factored=factored), [0.5, -0.2, 1.3]
    expected = merge_utils.task_arithmetic([u.dense for u in given], torch.tensor(weights, dtype=torch.float64))
    assert_close(combined(name, given, weights=weights), expected, rtol=1e-12, atol=1e-12)


def test_a_weighted_sum_keeps_the_ranks_side_by_side_and_passes_over_who_has_nothing():
    b, a = combinations.get("concat").combine([*updates(2), nothing_at(SITE)], Setting([1.0, 2.0, 3.0]))
    assert (b.shape, a.shape) == ((OUT, 4), (4, IN))


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.1]])
def test_ties_is_pefts(density: float, weights: list[float]):
    given = updates()
    expected = merge_utils.ties([u.dense for u in given], torch.tensor(weights, dtype=torch.float64), density)
    assert_close(combined("ties", given, weights=weights, density=density), expected, rtol=1e-12, atol=1e-12)


def test_ties_by_hand():
    """Yadav et al., figure 1: what is small goes, the heavier sign wins, those that agree are averaged."""
    first = torch.tensor([[4.0, -3.0, 0.1, 2.0]], dtype=torch.float64)
    second = torch.tensor([[2.0, 5.0, 3.0, -0.2]], dtype=torch.float64)
    given = [Update(1, None, first), Update(1, None, second)]
    # kept, 3 of 4 each: [4, -3, 0, 2] and [2, 5, 3, 0]; signs + + + +
    expected = torch.tensor([[3.0, 5.0, 3.0, 2.0]], dtype=torch.float64)
    assert_close(combined("ties", given, weights=[1.0, 1.0], density=0.75), expected)


def test_dare_is_pefts_draw_for_draw():
    given, weights = updates(), [0.5, 2.0, 0.1]
    torch.manual_seed(4)
    expected = merge_utils.dare_linear([u.dense for u in given], torch.tensor(weights, dtype=torch.float64), 0.4)
    ours = combined("dare", given, weights=weights, density=0.4, generator=torch.Generator().manual_seed(4))
    assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_dare_with_ties_is_pefts_draw_for_draw():
    given, weights = updates(), [0.5, 2.0, 0.1]
    torch.manual_seed(4)
    expected = merge_utils.dare_ties([u.dense for u in given], torch.tensor(weights, dtype=torch.float64), 0.4)
    ours = combined("dare_ties", given, weights=weights, density=0.4, generator=torch.Generator().manual_seed(4))
    assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_dare_is_the_weighted_sum_on_average():
    given, weights = updates(2), [0.5, 0.5]
    generator = torch.Generator().manual_seed(0)
    draws = [combined("dare", given, weights=weights, density=0.5, generator=generator) for _ in range(4000)]
    spread = sum(0.25 * u.dense.square() for u in given).sqrt() / 4000**0.5
    mean = torch.stack(draws).mean(dim=0)
    assert ((mean - combined("linear", given, weights=weights)).abs() < 5 * spread).all()


def test_fisher_is_the_precision_weighted_mean():
    given = [
        Update(u.rank, u.factors, statistic=drawn(OUT, IN, seed=9 + place).square())
        for place, u in enumerate(updates())
    ]
    given[0].statistic[0, 0] = given[1].statistic[0, 0] = given[2].statistic[0, 0] = 0.0
    weights = [0.5, 2.0, 0.1]
    expected = np.zeros((OUT, IN))
    for row in range(OUT):
        for column in range(IN):
            importance = [w * float(u.statistic[row, column]) for w, u in zip(weights, given, strict=True)]
            if sum(importance) == 0:
                importance = weights
            entries = [float(u.dense[row, column]) for u in given]
            expected[row, column] = np.average(entries, weights=importance)
    assert_close(combined("fisher", given, weights=weights), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_regmean_is_the_least_squares_solution():
    """lstsq on the inputs themselves: .9 of |X t^T - X t_i^T|^2, and .1 of the same on inputs without correlation."""
    tokens = [drawn(40, IN, seed=50 + place) for place in range(3)]
    grams = [(x.T @ x / len(x)) for x in tokens]
    given = [Update(u.rank, u.factors, statistic=g) for u, g in zip(updates(), grams, strict=True)]
    weights = [0.5, 2.0, 0.1]
    stacked = torch.cat([w**0.5 * x / len(x) ** 0.5 for w, x in zip(weights, tokens, strict=True)])
    diagonals = [w**0.5 * torch.diag(g.diag().sqrt()) for w, g in zip(weights, grams, strict=True)]
    rows = [0.9**0.5 * stacked, *(0.1**0.5 * d for d in diagonals)]
    outputs = torch.cat(
        [w**0.5 * x / len(x) ** 0.5 @ u.dense.T for w, x, u in zip(weights, tokens, given, strict=True)]
    )
    targets = [0.9**0.5 * outputs, *(0.1**0.5 * d @ u.dense.T for d, u in zip(diagonals, given, strict=True))]
    expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(targets)).solution.T
    assert_close(combined("regmean", given, weights=weights), expected, rtol=1e-9, atol=1e-9)


def test_regmean_leaves_inputs_that_are_never_used_alone():
    gram = torch.eye(IN, dtype=torch.float64)
    gram[2, 2] = 0.0
    given = [Update(u.rank, u.factors, statistic=gram) for u in updates(2)]
    result = combined("regmean", given, weights=[0.5, 0.5])
    expected = (given[0].dense + given[1].dense) / 2
    expected[:, 2] = 0
    assert_close(result, expected, rtol=1e-9, atol=1e-12)


def test_lorahub_is_a_product_of_sums():
    given, weights = updates(), [0.5, -2.0, 0.1]
    b = sum(w * u.factors[0] for w, u in zip(weights, given, strict=True) if u.factors)
    a = sum(w * u.factors[1] for w, u in zip(weights, given, strict=True) if u.factors)
    assert_close(combined("lorahub", given, weights=weights), b @ a, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(b @ a, combined("linear", given, weights=weights), atol=0.1)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_truncation_is_the_best_there_is(factored: bool, rank: int):
    """Eckart and Young: what is lost is the squared singular values that are left out."""
    given = updates(2, rank=2)
    b, a = torch.cat([u.factors[0] for u in given], 1), torch.cat([u.factors[1] for u in given])
    (left, right), lost, whole = truncated((b, a) if factored else b @ a, rank)
    values = np.linalg.svd((b @ a).numpy(), compute_uv=False)
    assert right.shape[0] <= max(rank, 4)
    assert whole == pytest.approx(float((values**2).sum()))
    assert lost == pytest.approx(float((values[rank:] ** 2).sum()), abs=1e-9)
    assert float((left @ right - b @ a).square().sum()) == pytest.approx(lost, abs=1e-9)


def test_every_way_says_what_it_is():
    assert set(combinations.names()) == {
        *("concat", "dare", "dare_ties", "fisher", "linear", "lorahub", "regmean", "svd", "task_arithmetic", "ties")
    }
    for name, way in combinations.items():
        assert (way.name, bool(way.summary)) == (name, True)
