"""LoftQ: algorithm 1 by numpy's SVD and the paper's table of 16 numbers, its scale divided out; and PEFT's, which leaves it in."""

from __future__ import annotations

from types import FunctionType

import numpy as np
import pytest
import torch
from support.adapters.cases import Fresh, adapt, batch_for, evaluated, to_quantise
from torch import nn
from torch.testing import assert_close

from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import InitContext, inits
from lorakit.adapters.method import resolve
from lorakit.backbone.quantised import Quantisation
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection

RANK, OUT, IN = 4, 48, 64
SITE = Site("m", 0, "q", IN, OUT, "linear")


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")


def started(weight: torch.Tensor, *, scale: float, steps: int, kind: str = "nf4") -> tuple[Delta, torch.Tensor]:
    """The delta at its start, and the weight that its module has then."""
    module = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    module.weight.copy_(weight)
    delta = deltas.get("low_rank")(SITE, RANK)
    how = Quantisation(kind)
    inits.get("loftq")(
        delta,
        InitContext(weight, scale, torch.Generator(), quantise=lambda wanted: how.put(module, wanted), steps=steps),
    )
    return delta, module.weight


def a_weight() -> torch.Tensor:
    return torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))


def in_steps(weight: np.ndarray, kind: str) -> np.ndarray:
    """The nearest of 255 multiples of a row's largest entry, or of 16 numbers times a block's."""
    if kind == "int8":
        largest = np.abs(weight).max(axis=1, keepdims=True)
        return np.round(weight / largest * 127) / 127 * largest
    from bitsandbytes.functional import get_4bit_type

    table = get_4bit_type("nf4", device="cpu").numpy().astype(np.float64)
    blocks = weight.reshape(-1, 64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / largest)[..., None] - table).argmin(axis=-1)
    return (table[nearest] * largest).reshape(weight.shape)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("steps", [1, 3])
def test_it_alternates_as_algorithm_1_does(kind: str, steps: int) -> None:
    weight, scale = a_weight(), 5 / 3
    delta, kept = started(weight, scale=scale, steps=steps, kind=kind)
    whole, update = weight.double().numpy(), np.zeros((OUT, IN))
    for _ in range(steps):
        rounded = in_steps(whole - update, kind)
        u, s, v = np.linalg.svd(whole - rounded)
        update = sum(s[k] * np.outer(u[:, k], v[k]) for k in range(RANK))
    assert_close(kept.double(), torch.tensor(rounded), rtol=1e-4, atol=1e-4)
    assert_close(scale * delta.dense().detach().double(), torch.tensor(update), rtol=1e-3, atol=1e-4)


def test_the_start_does_not_depend_on_the_scale() -> None:
    products = [(scale * started(a_weight(), scale=scale, steps=2)[0].dense()).detach() for scale in (0.25, 1.0, 4.0)]
    assert products[1].abs().max() > 0.01
    for product in (products[0], products[2]):
        assert_close(product, products[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_it_is_nearer_to_the_weight_than_rounding_alone_and_ever_nearer(steps: int) -> None:
    weight = a_weight()
    alone = np.linalg.norm(weight.double().numpy() - in_steps(weight.double().numpy(), "nf4"))
    delta, kept = started(weight, scale=2.0, steps=steps)
    distance = float((weight - kept - 2.0 * delta.dense().detach()).norm())
    fewer, at_first = started(weight, scale=2.0, steps=max(steps - 1, 1))
    assert distance < alone
    assert distance <= float((weight - at_first - 2.0 * fewer.dense().detach()).norm())


@pytest.mark.parametrize("steps", [1, 5])
def test_peft_comes_to_the_same_with_a_scale_of_one(steps: int) -> None:
    """It knows CUDA alone; here its function has that one constant changed."""
    from peft.utils import loftq_utils

    theirs = loftq_utils.loftq_init.__wrapped__
    code = theirs.__code__
    code = code.replace(co_consts=tuple("cpu" if constant == "cuda" else constant for constant in code.co_consts))
    on_cpu = FunctionType(code, theirs.__globals__, argdefs=theirs.__defaults__)
    weight = a_weight()
    with torch.no_grad():
        rounded, a, b = on_cpu(weight, num_bits=4, reduced_rank=RANK, num_iter=steps)
    delta, kept = started(weight, scale=1.0, steps=steps)
    assert_close(kept, rounded, rtol=1e-4, atol=1e-4)
    assert_close(delta.dense().detach(), b @ a, rtol=1e-4, atol=1e-4)
    ours, peft = (float((weight - found).norm()) for found in (kept + delta.dense().detach(), rounded + b @ a))
    assert ours == pytest.approx(peft, rel=1e-5)


def test_with_one_step_the_weight_is_rounded_as_without() -> None:
    plain = nn.Linear(IN, OUT).requires_grad_(False)
    _, kept = started(a_weight(), scale=1.0, steps=1)
    assert torch.equal(Quantisation("nf4").put(plain, a_weight()), kept)


def test_every_site_is_rounded_and_what_has_no_adapter_as_it_is(fresh: Fresh) -> None:
    section = AdapterSection(method="loftq", rank=RANK, init_steps=2)
    plain = fresh("bert")
    backbone = to_quantise(fresh("bert"), section)
    adapted = adapt(backbone, section, targets=["q"])
    assert backbone.to_quantise is None
    assert adapted.own_base().keys() == {
        f"{site.name}.{key}" for site in backbone.anatomy.select(["q"]) for key in ("codes", "absmax", "table")
    }
    for site in backbone.anatomy.sites:
        weight, was = (each.model.get_submodule(site.name).weight for each in (backbone, plain))
        rounded = torch.tensor(in_steps(was.detach().double().numpy(), "nf4")).float()
        assert torch.allclose(weight, rounded, rtol=1e-5, atol=1e-6) == (site.role != "q"), site.name
    assert any("keeps the quantised weights of 2 sites" in note for note in backbone.notes)


@pytest.mark.parametrize("decomposition", ["none", "magnitude"])
def test_a_fresh_model_is_nearer_to_the_pretrained_one_than_a_rounded_one(fresh: Fresh, decomposition: str) -> None:
    batch = batch_for(fresh("bert", shared=True).model)
    exact = evaluated(fresh("bert", shared=True).model, batch)
    loftq = AdapterSection(method="loftq", rank=24, decomposition=decomposition)
    rounded, started = (adapt(to_quantise(fresh("bert"), loftq), section) for section in (AdapterSection(), loftq))
    alone, distance = ((evaluated(adapted.model, batch) - exact).norm() for adapted in (rounded, started))
    assert 0 < distance < 0.5 * alone


def test_modules_that_cannot_be_rounded_are_refused(fresh: Fresh) -> None:
    with pytest.raises(RecipeError, match="before it is rounded") as caught:
        adapt(to_quantise(fresh("gpt2"), AdapterSection(method="loftq")), AdapterSection(method="loftq", rank=RANK))
    assert caught.value.problems[0].key == "adapter.init"


def test_steps_without_such_a_start_are_refused() -> None:
    with pytest.raises(RecipeError, match="'kaiming' does not alternate") as caught:
        resolve(AdapterSection(init_steps=3))
    assert caught.value.problems[0].key == "adapter.init_steps"
