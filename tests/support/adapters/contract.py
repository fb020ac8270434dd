"""What every adapter method owes. A method's own test is ``test_contract = contract("dora", parameters=...)`` and what is special.

Each check takes a Case, built anew for it: a pretrained backbone, and the same with adapters on all projections of its layers.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.adapters.cases import (
    FAMILIES,
    RANK,
    Case,
    Formula,
    Fresh,
    SharedFormula,
    adapt,
    backward,
    disturb,
    evaluated,
    logits,
    make_case,
    merged,
    take_base,
)
from support.adapters.unit_checks import check_units, check_watching
from support.thinned import crossed
from torch.testing import assert_close

from lorakit.adapters.adapted_model import HEAD, AdaptedModel
from lorakit.adapters.conflicts import roles_of
from lorakit.adapters.counting import costs, shared_cost
from lorakit.adapters.method import methods
from lorakit.adapters.switching import DROPPED, ON
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError, RunError
from lorakit.recipe.schema import AdapterSection

EXACT_IN_DOUBLE = ("bert", "gpt2")  # no RMSNorm, and no kinks as ReLU has


def contract(
    method: str,
    *,
    parameters: Formula,
    shared: SharedFormula = lambda rank, sites: 0,
    families: Collection[str] = FAMILIES,
    rank: int = RANK,
    every: int = 1,
    **section: Any,
) -> Callable[..., None]:
    """A test of every check on two families, other ones for each method and check; in the default run on the first of them.

    parameters: (rank, in, out) -> trained parameters of a site, or Site -> that number where it depends on more; shared: (rank, sites) ->
    trained parameters that sites have in common; all as the paper has it; every: of so many checks one is in the default run, where the
    method's contract with its usual settings stands beside this one; section: what else the adapter section says.
    """

    pairs = crossed(CHECKS, families, turn=methods.names().index(method), most=2, every=every)

    @pytest.mark.parametrize(("check", "family"), pairs, ids=named)
    def test(check: Callable[[Case], None], family: str, fresh: Fresh) -> None:
        check(make_case(fresh, family, AdapterSection(method=method, rank=rank, **section), parameters, shared))

    return test


def named(value: Any) -> str:
    """A check's name without its first word, or a family's."""
    return value if isinstance(value, str) else value.__name__.removeprefix("check_")


# -- the checks --------------------------------------------------------------------------------------------------------


def check_identity(case: Case) -> None:
    """A freshly adapted model is the pretrained one, bit for bit: what is added is exactly zero."""
    same = torch.equal(logits(case.adapted.model, case.batch), logits(case.pretrained, case.batch))
    assert same == case.identity


def check_merge(case: Case) -> None:
    """The plain model with the effective weights computes what the adapted one does, to fp32 rounding; or it says why not."""
    disturb(case.adapted)
    if case.kind.unmergeable:
        for adapter in case.adapted.adapters.values():
            with pytest.raises(RunError, match="cannot be folded"):
                adapter.fold()
        return
    out = evaluated(case.adapted.model, case.batch)
    assert not torch.allclose(out, evaluated(case.pretrained, case.batch), rtol=1e-3, atol=1e-3)
    assert_close(out, evaluated(merged(case.pretrained, case.adapted), case.batch), rtol=1e-4, atol=1e-5)


def check_training(case: Case) -> None:
    """Exactly the announced tensors and the head require gradients, and each gets one."""
    announced = {id(tensor.parameter) for tensor in case.adapted.trained()}
    holders = (*case.adapted.adapters.values(), *case.adapted.shared.values())
    by_role = {id(p) for holder in holders for _, p, role in holder.tensors() if case.spec.trains(role)}
    head = {id(case.adapted.model.get_parameter(name)) for name in case.adapted.new_parts}
    assert head
    assert by_role or not roles_of(case.kind)
    assert announced == by_role | head
    assert {id(p) for p in case.adapted.model.parameters() if p.requires_grad} == announced
    disturb(case.adapted)
    backward(case.adapted.model.train(), case.batch)
    for name, parameter in case.adapted.model.named_parameters():
        if id(parameter) in announced:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name
    for tensor in case.adapted.trained():
        assert tensor.parameter.grad.any() or inert(case, tensor.name), tensor.name


def inert(case: Case, name: str) -> bool:
    """Whether no gradient can reach this tensor: rows of embeddings that no token of the batch looks up are not all of it."""
    return case.kind.replaces_parameters and "token_type" in name


def check_counts(case: Case) -> None:
    """What the budget counts is what is built, and what the paper's formula says."""
    built = {
        name: sum(p.numel() for p in adapter.parameters() if p.requires_grad)
        for name, adapter in case.adapted.adapters.items()
    }
    assert costs(case.adapted.sites, case.spec, case.spec) == built
    together = {id(p): p.numel() for held in case.adapted.shared.values() for p in held.parameters() if p.requires_grad}
    common = sum(together.values())
    assert shared_cost(case.adapted.sites, case.spec, case.spec) == common
    assert case.adapted.adapter_parameters() == sum(built.values()) + common
    every = sum(p.numel() for p in case.adapted.model.parameters() if p.requires_grad)
    assert case.adapted.head_parameters() == every - sum(built.values()) - common
    if case.parameters is not None:
        formula = {s.name: announced(case.parameters, case.rank, s) for s in case.adapted.sites}
        assert built == formula
    if case.shared is not None:
        assert common == case.shared(case.rank, case.adapted.sites)


def announced(formula: Formula, rank: int, site: Site) -> int:
    """What the formula says of one site."""
    if len(inspect.signature(formula).parameters) == 1:
        return formula(site)  # type: ignore[call-arg, arg-type]
    return formula(rank, site.in_features, site.out_features)  # type: ignore[call-arg, arg-type]


def check_drop(case: Case) -> None:
    """A model whose sites are all off is the pretrained one bit for bit, with no trace on its modules."""
    disturb(case.adapted)
    case.adapted.switch([])
    assert torch.equal(logits(case.adapted.model, case.batch), logits(case.pretrained, case.batch))
    assert not any("forward" in module.__dict__ for module in case.adapted.model.modules())
    assert {t.role for t in case.adapted.trained() if t.parameter.requires_grad} == {HEAD}
    assert case.adapted.on == []
    assert case.adapted.adapter_parameters() == 0


def check_freeze(case: Case) -> None:
    """``freeze`` keeps the function and stops the training."""
    disturb(case.adapted)
    before = evaluated(case.adapted.model, case.batch)
    case.adapted.switch([], off="freeze")
    assert torch.equal(evaluated(case.adapted.model, case.batch), before)
    assert set(case.adapted.states().values()) == {"frozen"}
    backward(case.adapted.model, case.batch)
    assert {tensor.role for tensor in case.adapted.trained() if tensor.parameter.grad is not None} == {HEAD}


def check_restore(case: Case) -> None:
    """States that were recorded come back exactly: on, frozen and dropped."""
    disturb(case.adapted)
    names = list(case.adapted.adapters)
    case.adapted.switch(names[:-1:3], off="freeze")
    case.adapted.restore(case.adapted.states() | {names[min(1, len(names) - 1)]: "dropped"})
    states, before = case.adapted.states(), evaluated(case.adapted.model, case.batch)
    training = [t.parameter.requires_grad for t in case.adapted.trained()]
    assert set(states.values()) == set(("dropped", "on", "frozen")[: len(names)])
    case.adapted.switch(names)
    assert not torch.equal(evaluated(case.adapted.model, case.batch), before)
    case.adapted.restore(states)
    assert case.adapted.states() == states
    assert torch.equal(evaluated(case.adapted.model, case.batch), before)
    assert [t.parameter.requires_grad for t in case.adapted.trained()] == training


def check_cost(case: Case) -> None:
    """Below the lowest site that is on, nothing is recorded for a backward pass."""
    disturb(case.adapted)
    upper = [site.name for site in case.adapted.sites if site.layer == 1]
    if not upper:
        return  # it sits on the input alone
    case.adapted.switch(upper)
    lower = case.adapted.backbone.anatomy.layers[0][1]
    outputs: list[Any] = []
    lower.register_forward_hook(lambda module, args, output: outputs.append(output))
    backward(case.adapted.model, case.batch)
    output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    assert output.grad_fn is None
    trained = {tensor.site for tensor in case.adapted.trained() if tensor.parameter.grad is not None}
    own = {tensor.site for tensor in case.adapted.trained()}
    assert trained - {None} == own & set(upper)


def check_round_trip(case: Case) -> None:
    """The state, loaded into a model that started elsewhere, gives the same logits bit for bit; so do head and buffers."""
    disturb(case.adapted)
    with torch.no_grad():
        for name in case.adapted.new_parts:
            case.adapted.model.get_parameter(name).add_(0.3)
    stored = {name: tensor.clone() for name, tensor in case.adapted.tensors().items()}
    other = case.again(seed=9)
    assert not torch.equal(evaluated(other.model, case.batch), evaluated(case.adapted.model, case.batch))
    take_base(other, case.adapted)
    other.load_tensors(stored)
    assert torch.equal(evaluated(other.model, case.batch), evaluated(case.adapted.model, case.batch))


def check_copy(case: Case) -> None:
    """A deep copy of the model, taken in the middle of training, lives its own life."""
    disturb(case.adapted)
    before = evaluated(case.adapted.model, case.batch)
    backward(case.adapted.model, case.batch)
    twin = copy.deepcopy(case.adapted.model)
    disturb(case.adapted, seed=6)
    assert torch.equal(evaluated(twin, case.batch), before)
    after = evaluated(case.adapted.model, case.batch)
    assert torch.equal(after, before) == (not roles_of(case.kind))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "adapter" in name or name.startswith("shared") or case.in_full:
                parameter.zero_()
    assert torch.equal(evaluated(case.adapted.model, case.batch), after)


def check_autocast(case: Case) -> None:
    """bfloat16 autocast: the same start, a function near the fp32 one, and finite fp32 gradients."""
    with torch.autocast("cpu", torch.bfloat16):
        same = torch.equal(logits(case.adapted.model, case.batch), logits(case.pretrained, case.batch))
    assert same == case.identity
    disturb(case.adapted)
    exact = evaluated(case.adapted.model, case.batch)
    plain = None if case.kind.unmergeable else merged(case.pretrained, case.adapted)
    with torch.autocast("cpu", torch.bfloat16):
        out = evaluated(case.adapted.model, case.batch)
        rounding = 0.0 if plain is None else float((evaluated(plain, case.batch).float() - exact).abs().max())
        backward(case.adapted.model, case.batch)
    assert near(out, exact, rounding) or case.kind.pools_rows  # whose hard choices may flip with the rounding
    for tensor in case.adapted.trained():
        assert tensor.parameter.grad.dtype == torch.float32
        assert tensor.parameter.grad.isfinite().all()


def check_half_precision(case: Case) -> None:
    """Frozen weights in bfloat16, adapters in float32: the same start, a function near the fp32 one, and fp32 gradients."""
    if case.in_full:
        with pytest.raises(RecipeError, match="float32"):
            case.again(seed=0, dtype="bfloat16")
        return
    half = case.again(seed=0, dtype="bfloat16")
    take_base(half, case.adapted)  # weights of bfloat16 are not rounded as those of float32 are
    fresh = evaluated(half.model, case.batch)
    half.switch([])
    start = evaluated(half.model, case.batch)
    assert torch.equal(fresh, start) == case.identity
    half.switch(half.adapters)
    assert all(tensor.parameter.dtype == torch.float32 for tensor in half.trained())
    disturb(case.adapted)
    heads = {name: half.tensors()[name] for name in half.new_parts}
    half.load_tensors(case.adapted.tensors() | heads)  # an init from the weights is not the same for the rounded ones
    out = evaluated(half.model, case.batch)
    assert near(out, evaluated(case.adapted.model, case.batch)) or case.kind.pools_rows
    backward(half.model, case.batch)
    assert all(tensor.parameter.grad.isfinite().all() for tensor in half.trained())
    half.switch([])
    assert torch.equal(evaluated(half.model, case.batch), start)


def near(out: torch.Tensor, exact: torch.Tensor, rounding: float = 0.0) -> bool:
    """Equal to bfloat16's eight bits, with room for a few layers' roundings to add up.

    rounding: what bfloat16 does to a plain model with the same weights; some random weights are badly conditioned.
    """
    return bool((out.float() - exact).abs().max() <= 0.1 * exact.abs().max() + 3 * rounding)


def check_gradients(case: Case) -> None:
    """In double precision, each trained tensor's gradient along a random direction is what finite differences say.

    A magnitude's norm is outside the graph on purpose, so there the two differ; RMSNorm computes in float32 whatever it is given.
    """
    if case.own_base:
        return  # it computes in float32 at most
    if case.spec.decomposition == "magnitude" or case.adapted.backbone.anatomy.family not in EXACT_IN_DOUBLE:
        return
    disturb(case.adapted)
    model, step = case.adapted.model.double(), 1e-6
    backward(model, case.batch)
    generator = torch.Generator().manual_seed(8)
    weights = torch.arange(1, 7, dtype=torch.float64).reshape(2, 3)
    for tensor in case.adapted.trained():
        direction = torch.randn(tensor.parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                tensor.parameter.add_(sign * step * direction)
            values.append((evaluated(model, case.batch) * weights).sum())
        with torch.no_grad():
            tensor.parameter.add_(step * direction)
        expected = (values[0] - values[1]) / (2 * step)
        assert_close((tensor.parameter.grad * direction).sum(), expected, rtol=1e-4, atol=1e-6, msg=tensor.name)


def check_checkpointing(case: Case) -> None:
    """With gradient checkpointing, in training mode, the gradients are the same."""
    disturb(case.adapted)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            case.adapted.model.gradient_checkpointing_enable({"use_reentrant": False})
        case.adapted.model.train().zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            backward(case.adapted.model, case.batch)
        gradients.append({tensor.name: tensor.parameter.grad.clone() for tensor in case.adapted.trained()})
    assert_close(gradients[1], gradients[0])


def check_side_by_side(case: Case) -> None:
    """A second adapter on the same model: each alone as if the other were not there, and both together where sums commute."""
    first, section = case.adapted, replace(case.section)
    if case.own_base:
        with pytest.raises(RecipeError, match="before it is rounded"):
            adapt(first.backbone, section, seed=7)
        return
    first.switch([])
    second = adapt(first.backbone, section, seed=7)
    disturb(second)
    second_alone = evaluated(second.model, case.batch)
    second.switch([])
    first.switch(first.adapters)
    disturb(first, seed=6)
    first_alone = evaluated(first.model, case.batch)
    assert not torch.equal(first_alone, second_alone)
    if case.method.block and not case.kind.replaces_parameters:
        return  # virtual tokens of two adapters: their order is nobody's
    if not case.kind.additive or case.in_full or case.spec.decomposition == "magnitude":
        with pytest.raises(RunError, match="two adapters at once"):
            second.switch(second.adapters)
        second.switch([])
    else:
        second.switch(second.adapters)
        if case.kind.unmergeable:
            check_sum(case, first, second)
        else:
            both = evaluated(second.model, case.batch)
            both_merged = evaluated(merged(merged(case.pretrained, first), second), case.batch)
            assert_close(both, both_merged, rtol=1e-4, atol=1e-5)
        first.switch([])
        assert torch.equal(evaluated(first.model, case.batch), second_alone)
        second.switch([])
    first.switch(first.adapters)
    assert torch.equal(evaluated(first.model, case.batch), first_alone)


def check_sum(case: Case, first: AdaptedModel, second: AdaptedModel) -> None:
    """What two adapters that are on add to each module's output is the sum of what each adds alone."""
    generator = torch.Generator().manual_seed(2)
    for name, adapter in first.adapters.items():
        x = torch.randn(*case.batch["input_ids"].shape, adapter.site.in_features, generator=generator)
        outputs = {}
        for states in ((ON, ON), (ON, DROPPED), (DROPPED, ON), (DROPPED, DROPPED)):
            adapter.switch(states[0])
            second.adapters[name].switch(states[1])
            outputs[states] = case.adapted.model.get_submodule(name)(x)
        added = outputs[ON, DROPPED] + outputs[DROPPED, ON] - outputs[DROPPED, DROPPED]
        assert_close(outputs[ON, ON], added, rtol=1e-4, atol=1e-4)
    first.switch([])
    second.switch(second.adapters)


CHECKS = (
    check_identity,
    check_merge,
    check_training,
    check_counts,
    check_drop,
    check_freeze,
    check_restore,
    check_cost,
    check_round_trip,
    check_copy,
    check_autocast,
    check_half_precision,
    check_gradients,
    check_checkpointing,
    check_side_by_side,
    check_units,
    check_watching,
)
