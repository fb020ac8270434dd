"""GLoRA's layer and its merged weight and bias, written out by hand for all 432 configurations."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.deltas.glora import CHOICES, GLoRA, choices_on, written
from lorakit.adapters.method import resolve
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

IN, OUT, RANK = 6, 4, 2
SITE = Site("dense", 0, "q", IN, OUT, "linear")
WITHOUT_BIAS = Site("dense", 0, "q", IN, OUT, "linear", bias=False)
EVERY = [
    dict(zip("ABCDE", chosen, strict=True)) for chosen in itertools.product(*(CHOICES[letter] for letter in "ABCDE"))
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def adapter_on(dense: nn.Linear, options: dict[str, str], site: Site = SITE) -> Adapter:
    """An adapter in double precision with no tensor at zero."""
    spec = resolve(AdapterSection(method="glora", rank=RANK, options=options))
    adapter = Adapter(site, spec, RANK, dense).double()
    for number, parameter in enumerate(adapter.parameters()):
        parameter.data.copy_(draw(*parameter.shape, seed=number + 1))
    adapter.switch("on")
    return adapter


def by_hand(storage: dict[str, torch.Tensor], chosen: dict[str, str], w: torch.Tensor, b: torch.Tensor):
    """W' and b' as the paper's table has them, from the storage that all configurations share."""

    def matrix(letter: str, rows: int, columns: int) -> torch.Tensor:
        down, up = storage[f"{letter}d"], storage[f"{letter}u"]
        return {
            "lora": down @ up,
            "vector": down[:, :1].expand(rows, columns),
            "scalar": down[0, 0].expand(rows, columns),
            "none": torch.zeros(rows, columns, dtype=w.dtype),
        }[chosen[letter]]

    def vector(letter: str) -> torch.Tensor:
        whole = storage[letter]
        return {"vector": whole, "scalar": whole[0].expand(OUT), "none": torch.zeros_like(whole)}[chosen[letter]]

    weight = w + w * matrix("A", OUT, IN) + matrix("B", OUT, IN)
    return weight, b + b * vector("D") + vector("E") + (w @ matrix("C", IN, 1))[:, 0]


def test_every_configuration_of_a_supernet_is_the_papers_formula() -> None:
    dense, x = nn.Linear(IN, OUT).double(), draw(5, 3, IN)
    adapter = adapter_on(dense, {"mode": "supernet"})
    storage = {name: tensor.detach() for name, tensor, _ in adapter.tensors()}
    w, b = dense.weight.detach(), dense.bias.detach()
    assert len(EVERY) == 432
    for chosen in EVERY:
        adapter.delta.configure(chosen)
        weight, bias = by_hand(storage, chosen, w, b)
        assert_close(adapter.effective_weight(w).detach(), weight)
        assert_close(adapter.effective_bias(w, b).detach(), bias)
        assert_close(dense(x).detach(), F.linear(x, weight, bias))


def test_a_fixed_configuration_with_what_the_supernet_uses_is_the_same_layer() -> None:
    x = draw(5, IN)
    one, two = nn.Linear(IN, OUT).double(), nn.Linear(IN, OUT).double()
    two.load_state_dict(one.state_dict())
    supernet = adapter_on(one, {"mode": "supernet"})
    for chosen in EVERY:
        supernet.delta.configure(chosen)
        fixed = GLoRA(SITE, RANK, chosen).double()
        used = supernet.delta.used()
        assert {name: tensor.shape for name, tensor in used.items()} == {
            n: p.shape for n, p in fixed.named_parameters()
        }
        fixed.load_state_dict({name: tensor.detach() for name, tensor in used.items()})
        w, b = two.weight.detach(), two.bias.detach()
        out = F.linear(x, fixed.effective_weight(w, 1.0), fixed.effective_bias(w, b, 1.0))
        assert_close(one(x), out)


def test_only_what_a_configuration_uses_gets_a_gradient() -> None:
    dense = nn.Linear(IN, OUT).double()
    adapter = adapter_on(dense, {"mode": "supernet"})
    adapter.delta.configure({"A": "vector", "B": "scalar", "C": "none", "D": "scalar", "E": "none"})
    dense(draw(5, IN)).square().sum().backward()
    got = {name: tensor.grad for name, tensor, _ in adapter.tensors() if tensor.grad is not None}
    assert set(got) == {"Ad", "Bd", "D"}
    assert got["Ad"][:, 0].all()
    assert not got["Ad"][:, 1:].any()
    assert got["Bd"][0, 0] != 0
    assert got["Bd"].count_nonzero() == 1
    assert got["D"].count_nonzero() == 1


@pytest.mark.parametrize("chosen", EVERY[::17], ids=written)
def test_gradients_are_those_of_finite_differences(chosen: dict[str, str]) -> None:
    dense = nn.Linear(IN, OUT).double().requires_grad_(False)
    adapter = adapter_on(dense, chosen)
    tensors = tuple(parameter for _, parameter, _ in adapter.tensors())
    assert torch.autograd.gradcheck(lambda x, *_: dense(x), (draw(3, IN).requires_grad_(), *tensors))


def test_without_a_bias_there_is_a_and_b_alone() -> None:
    dense, x = nn.Linear(IN, OUT, bias=False).double(), draw(5, IN)
    adapter = adapter_on(dense, {"mode": "supernet"}, WITHOUT_BIAS)
    t = {name: tensor.detach() for name, tensor, _ in adapter.tensors()}
    assert set(t) == {"Ad", "Au", "Bd", "Bu"}
    assert set(choices_on(WITHOUT_BIAS)) == {"A", "B"}
    adapter.delta.configure({"A": "lora", "B": "vector", "C": "lora", "D": "vector", "E": "vector"})
    w = dense.weight.detach()
    assert_close(dense(x).detach(), x @ (w + w * (t["Ad"] @ t["Au"]) + t["Bd"][:, :1]).T)
    assert adapter.effective_bias(w, None) is None


def test_only_factors_have_a_rank() -> None:
    delta = GLoRA(SITE, RANK, {"A": "vector", "B": "lora", "C": "none"})
    assert delta.rank_axes == {"Bd": 1, "Bu": 0}
    assert {name: delta.get_parameter(name).shape[axis] for name, axis in delta.rank_axes.items()} == {"Bd": 2, "Bu": 2}


def test_an_empty_configuration_is_the_frozen_layer() -> None:
    dense, x = nn.Linear(IN, OUT).double(), draw(5, IN)
    before = dense(x)
    adapter = adapter_on(dense, dict.fromkeys("ABCDE", "none"))
    assert list(adapter.parameters()) == []
    assert adapter.changes_nothing()
    assert torch.equal(dense(x), before)


def test_a_fixed_layer_cannot_be_configured() -> None:
    with pytest.raises(ValueError, match="supernet"):
        GLoRA(SITE, RANK).configure({"A": "none"})
