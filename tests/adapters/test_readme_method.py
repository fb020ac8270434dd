"""The example of a method in the adapters' README: 25 lines that keep the whole contract and agree with PEFT."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from support.adapters.cases import FAMILIES, Case, Fresh, adapt, backward, batch_for, disturb, evaluated, make_case
from support.adapters.contract import CHECKS, named
from support.thinned import crossed
from torch.testing import assert_close

from lorakit.adapters.delta import deltas
from lorakit.adapters.method import methods
from lorakit.recipe.schema import AdapterSection

README = Path(__file__).parents[2] / "lorakit" / "adapters" / "README.md"


def example() -> str:
    """The example's lines."""
    (text,) = re.findall(r"<!-- method -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@pytest.fixture
def loha(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example registered, until the test is over."""
    for registry in (deltas, methods):
        monkeypatch.setattr(registry, "_entries", dict(registry.items()))
    exec(compile(example(), str(README), "exec"), {"__name__": "loha"})


def formula(rank: int, inside: int, outside: int) -> int:
    return 2 * rank * (inside + outside)


def test_it_is_as_short_as_promised() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 25


@pytest.mark.parametrize(("check", "family"), crossed(CHECKS, FAMILIES, turn=0), ids=named)
def test_it_keeps_the_contract(loha: None, check: Callable[[Case], None], family: str, fresh: Fresh) -> None:
    check(make_case(fresh, family, AdapterSection(method="loha"), formula))


def test_it_is_peft_s_loha(loha: None, fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="loha", rank=3, alpha=5))
    disturb(adapted)
    config = peft.LoHaConfig(r=3, alpha=5, target_modules=list(adapted.adapters))
    twin = peft.get_peft_model(fresh("bert").model, config).base_model.model.eval()
    names = {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}
    for site, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            with torch.no_grad():
                getattr(twin.get_submodule(site), names[key])["default"].copy_(tensor)
    batch = batch_for(adapted.model)
    assert_close(evaluated(adapted.model, batch), evaluated(twin, batch), rtol=1e-4, atol=1e-5)
    backward(adapted.model, batch)
    backward(twin, batch)
    for site, adapter in adapted.adapters.items():
        for key, tensor, _ in adapter.tensors():
            expected = getattr(twin.get_submodule(site), names[key])["default"].grad
            assert_close(tensor.grad, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
