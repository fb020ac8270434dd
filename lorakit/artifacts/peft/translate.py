"""A PEFT adapter in lorakit's terms: which sites it sits on, what adapter section makes them, and the values of their tensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch

from lorakit.adapters.adapted_model import SHARED, AdaptedModel
from lorakit.adapters.block import blocks
from lorakit.adapters.deltas.rescaling import RESCALES_INPUT
from lorakit.adapters.method import methods
from lorakit.artifacts.peft.import_ import PeftAdapter, Tensors, matches, targeted
from lorakit.artifacts.peft.layout import MAGNITUDE
from lorakit.artifacts.saved_head import match_head
from lorakit.backbone.head import output_names
from lorakit.backbone.load import Backbone
from lorakit.backbone.site import Site
from lorakit.backbone.trained_head import Outputs
from lorakit.errors import RunError
from lorakit.recipe.schema import AdapterSection
from lorakit.tasks.label_order import told

logger = logging.getLogger(__name__)

METHODS = {"LORA": "lora", "ADALORA": "lora", "VERA": "vera", "IA3": "ia3", "LN_TUNING": "layer_norm"}


def sites_of(adapter: PeftAdapter, backbone: Backbone) -> list[Site]:
    """The model's sites that the adapter sits on, in model order. RunError where the two do not belong together."""
    block = methods.get(METHODS[adapter.kind]).block
    known = blocks.get(block).sites(backbone) if block else backbone.anatomy.sites
    names = {site.name for site in known}
    outside = sorted(set(adapter.parts) - names)
    if outside:
        there = {name for name, _ in backbone.model.named_modules()}
        why = (
            "is outside the layers, and only they are adapted" if outside[0] in there else "is no module of this model"
        )
        raise adapter.error(f"{outside[0]} {why}", hint="model.name=... names the model it was made for")
    named = {name for name in names if targeted(adapter.config, name)}
    if unnamed := sorted(set(adapter.parts) - named):
        raise adapter.error(f"there are tensors of {unnamed[0]}, which target_modules does not name")
    explicit = adapter.config.get("target_modules") not in (None, "all-linear")
    pruned = {name for name, rank in (adapter.config.get("rank_pattern") or {}).items() if not any_rank(rank)}
    lacking = sorted(name for name in named - set(adapter.parts) if not any(key.startswith(name) for key in pruned))
    if explicit and lacking:
        raise adapter.error(f"there are no tensors of {lacking[0]}, which target_modules names")
    if adapter.kind == "IA3":
        for site in known:
            inputs = matches(adapter.config.get("feedforward_modules"), site.name)
            if site.name in adapter.parts and inputs != (site.role in RESCALES_INPUT):
                side = "inputs" if inputs else "outputs"
                raise adapter.error(f"{site.name} rescales its {side}: lorakit does so the other way round")
    return [site for site in known if site.name in adapter.parts]


def any_rank(rank: object) -> bool:
    """Whether an entry of ADALORA's rank_pattern (a list of truths) leaves anything; any other entry does."""
    return any(rank) if isinstance(rank, list) else True


def section_for(adapter: PeftAdapter, sites: Sequence[Site], backbone: Backbone) -> AdapterSection:
    """The adapter section that makes just these sites."""
    rule, alpha = scale_rule(adapter)
    section = placed(backbone, sites, adapter.ranks, METHODS[adapter.kind])
    section.alpha = alpha
    section.dropout = float(adapter.config.get("lora_dropout") or adapter.config.get("vera_dropout") or 0.0)
    if adapter.kind in ("LORA", "ADALORA"):
        section.scale = rule
    if adapter.kind == "ADALORA":
        section.delta = "diagonal"
    if adapter.config.get("use_dora"):
        section.decomposition = "magnitude"
    return section


def placed(backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int], method: str) -> AdapterSection:
    """A section for these sites and ranks: by roles where that says it all, else with every site by name."""
    roles = [role for role in backbone.anatomy.roles if any(site.role == role for site in sites)]
    section = AdapterSection(method=method, targets=roles or None, rank=max(ranks.values()))
    block = methods.get(method).block
    selected = blocks.get(block).sites(backbone) if block else backbone.anatomy.select(roles)
    if [site.name for site in selected] != [site.name for site in sites] or len(set(ranks.values())) > 1:
        section.allocation = {site.name: ranks[site.name] for site in sites}
    return section


def scale_rule(adapter: PeftAdapter) -> tuple[str, float]:
    """The scale rule and alpha that give every site its scale; what is left over goes into B (see ``values``)."""
    pairs = [(adapter.scales[name], rank) for name, rank in adapter.ranks.items()]
    for rule, power in (("lora", 1.0), ("rslora", 0.5), ("constant", 0.0)):
        alphas = [scale * rank**power for scale, rank in pairs]
        if all(math.isclose(alpha, alphas[0], rel_tol=1e-9) for alpha in alphas) and alphas[0] > 0:
            return rule, alphas[0]
    return "constant", 1.0


def values(adapter: PeftAdapter, adapted: AdaptedModel) -> Tensors:
    """Key of ``AdaptedModel.tensors`` -> value. RunError for a head that is missing, or tensors that have no place."""
    found: Tensors = {}
    for name, tensors in adapter.parts.items():
        rest = adapter.scales[name] / adapted.adapters[name].scale
        for part, tensor in translated(adapter.kind, tensors, 1.0 if math.isclose(rest, 1.0, rel_tol=1e-9) else rest):
            found[f"{name}.{part}"] = tensor.to(torch.float32)
    for group in adapted.shared:
        found |= {f"{SHARED}.{group}.{name[-1]}": tensor.to(torch.float32) for name, tensor in adapter.shared.items()}
    return found | head_values(adapter, adapted)


def translated(kind: str, tensors: Tensors, rest: float) -> list[tuple[str, torch.Tensor]]:
    """(our name, value) of a module's tensors; rest: what the scale lacks."""
    if kind == "VERA":
        return [("b", tensors["vera_lambda_b"] * rest), ("d", tensors["vera_lambda_d"])]
    if kind == "IA3":
        return [("l", tensors["ia3_l"].flatten())]
    if kind == "LN_TUNING":
        return list(tensors.items())
    pairs = [("A", tensors["lora_A"]), ("B", tensors["lora_B"] * rest if rest != 1 else tensors["lora_B"])]
    if kind == "ADALORA":
        pairs.append(("g", tensors["lora_E"].flatten()))
    if MAGNITUDE in tensors:
        pairs.append(("magnitude", tensors[MAGNITUDE].flatten()))
    return pairs


def head_values(adapter: PeftAdapter, adapted: AdaptedModel) -> Tensors:
    """The head's and other new parts' values: the adapter's, or the base model's own where that brought a trained head."""
    parts, state = set(adapted.new_parts), adapted.tensors()
    if foreign := sorted(set(adapter.rest) - parts):
        raise adapter.error(
            f"{foreign[0]} was trained whole, and lorakit keeps nothing whole beside an adapter but the head",
            hint="merge it with PEFT",
        )
    if missing := sorted(parts - set(adapter.rest)):
        if adapter.rest or not adapted.backbone.head.kept:
            whose = "the adapter brings only a part of its head"
            if not adapter.rest:
                whose = "the base model has no trained head, and the adapter brings none"
            hint, base = "task_type='SEQ_CLS' in PEFT trains and saves it", adapted.backbone.head
            if not adapter.rest and base.note and not base.reshaped:  # its labels have other names
                whose, hint = (
                    f"{base.note}; and the adapter brings none",
                    "model.head=keep, where the base model's own is meant",
                )
            raise adapter.error(f"{missing[0]} is missing: {whose}", hint=hint)
        return {name: state[name].clone() for name in parts}
    for name, tensor in adapter.rest.items():
        if tensor.shape != state[name].shape:
            shapes = f"{[*tensor.shape]} in the adapter and {[*state[name].shape]} for this task"
            raise adapter.error(f"{name} is {shapes}", hint="a task with as many labels as it was trained for")
    head = {name: tensor.to(torch.float32) for name, tensor in adapter.rest.items()}
    return head | in_order(adapter, adapted, head)


def in_order(adapter: PeftAdapter, adapted: AdaptedModel, head: Tensors) -> Tensors:
    """The outputs of an adapter's own head in the task's order, by the names that lorakit wrote with it, or the base model has for them.

    RunError where they are for other labels; a warning where nothing tells what they are for, as PEFT does not.
    """
    own, base = Outputs.of(adapted.backbone.model.config).names, adapted.backbone.head
    if adapter.labels is not None:
        fits = match_head(adapted, adapter.labels)
        if fits.left:
            raise adapter.error(
                f"its head cannot be used: {fits.note}", hint="a task with the labels it was trained for"
            )
        return {name: head[name][list(fits.order)] for name in fits.outputs}
    if base.order:
        outputs = output_names(adapted.backbone.model, adapted.new_parts)
        logger.warning(
            "%s: its head's outputs are taken to be in the base model's order of names, and put into the order %s",
            adapter.path,
            told(own),
        )
        return {name: head[name][base.order] for name in outputs}
    if own and (base.loud or not base.kept):
        logger.warning(
            "%s does not say which of its head's outputs is which label: they are taken, in this order, for %s",
            adapter.path,
            told(own),
        )
    return {}


def fill(adapted: AdaptedModel, adapter: PeftAdapter) -> None:
    """Put the adapter's values into a model made by ``section_for``. RunError where a shape does not fit."""
    found = values(adapter, adapted)
    if large := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
        raise adapter.error(f"{large[0]} has values that float32 does not hold")
    try:
        adapted.load_tensors(found)
    except RunError as error:
        raise adapter.error(str(error)) from None
