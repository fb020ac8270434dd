"""``lorakit.adapt``: adapters on a model that somebody loaded or wrote, for a loop of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.attach import NO_SITE_STATISTICS, attach
from lorakit.adapters.block import blocks
from lorakit.adapters.conflicts import conflicts_with_base
from lorakit.adapters.delta import deltas
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.adapters.init import inits
from lorakit.adapters.method import methods, resolve, shortcut_spec
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.head import train_new_parts
from lorakit.backbone.load import Backbone
from lorakit.backbone.own_model import NOT_KNOWN, NamedModules, check_plain, named_parts, own_backbone, usual_head
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError, RunError, UsageError
from lorakit.recipe.overlays import as_list
from lorakit.recipe.schema import AdapterSection, Recipe
from lorakit.searching.input_statistics import input_means
from lorakit.searching.scoring import without_trace
from lorakit.searching.weight_gradients import weight_gradients
from lorakit.training.optim import faster
from lorakit.training.seeds import derive_seed, generator
from lorakit.training.update import chosen_updates
from lorakit.workflow.calibrate import ROWS, Statistics
from lorakit.workflow.own_loop.adapted import Adapted
from lorakit.workflow.own_loop.passes import LABELS, OwnBatch, OwnLoss, Passes, models_own_loss
from lorakit.workflow.own_loop.settings import read_settings
from lorakit.workflow.sites import choose_sites, read_site_options

logger = logging.getLogger(__name__)

CALL = "lorakit.adapt"
Measured = Callable[[Sequence[Site], AdapterSpec, Backbone], Statistics | None]
"""(sites, their spec, backbone) -> what its init needs of data, None where the tensors are loaded afterwards."""


def adapt(
    model: nn.Module,
    method: str = "lora",
    *,
    rank: int | None = None,
    alpha: float | None = None,
    targets: str | Sequence[str] | None = None,
    shortcuts: Sequence[str] = (),
    head: str | Sequence[str] | None = None,
    calibration: Iterable[OwnBatch] | None = None,
    loss: OwnLoss = models_own_loss,
    seed: int = 0,
    **axes: Any,
) -> Adapted:
    """Put adapters on a model, freeze the rest of it, and leave the training to you.

    Each site starts from its own stream of ``seed``, as in ``lorakit train``, and the function is that of before (but for the methods
    that say otherwise). The model keeps its device, its dtype and its modes. Adapters are in float32 whatever the weights are, and so is
    what trains whole. Make the optimiser afterwards, from ``Adapted.groups``; wrap or compile the model afterwards too.

    Args:
        model: a classifier of transformers; or any ``nn.Module``, of which the Linear modules are known by their names, and neither
            layers nor roles: ``targets`` then are names.
        method: a method of `lorakit list methods`. Those that do something in every step are refused: they need `lorakit train`.
        rank: of each site, or a bottleneck's width, or virtual tokens; the method's usual one by default.
        alpha: numerator of the scale.
        targets: roles (``q k v o up gate down``), ``all``, or regexes for module names; the method's usual ones by default.
        shortcuts: of ``res1 res2 in cut mid``, where the places of the model's residual sums are known.
        head: what trains whole beside the adapters: regexes for modules or parameters. By default what stands
            outside the base model of a classifier of transformers; nothing of a language model, or of another module.
        calibration: batches of training rows, for a method that starts from data (EVA, CorDA, LoRA-GA): mappings from names to
            tensors (rows, ...).
        loss: (model, batch) -> mean loss of the rows, for a start that looks at gradients; the model's own by default.
        seed: of the start.
        axes: any other key of a recipe's ``adapter:``, such as ``dropout``, ``init``, ``decomposition`` or ``options``.

    Returns:
        What trains, and how to save it and fold it in; the model itself is changed, and ``.model`` of it.

    Raises:
        RecipeError: for wrong settings, all of them at once, with the nearest name; for targets or shortcuts that are not there.
        UsageError: for a model that is adapted or wrapped already.
        RunError: for weights that are quantised, or not loaded.

    Example:
        >>> adapted = lorakit.adapt(model, method="dora", rank=8, targets=["q", "v"])   # doctest: +SKIP
        >>> optimizer = torch.optim.AdamW(adapted.groups(lr=5e-4))                      # doctest: +SKIP
    """
    given = {
        "method": method,
        "rank": rank,
        "alpha": alpha,
        "targets": listed(targets),
        "shortcuts": as_list(shortcuts),
    }
    recipe = read_settings(CALL, given | axes)
    check_for_train(recipe.adapter)
    check_no_updates(recipe)
    check_plain(model)
    new_parts = usual_head(model) if head is None else named_parts(model, listed(head) or [])
    batches = None if calibration is None else list(calibration)

    def measured(sites: Sequence[Site], spec: AdapterSpec, backbone: Backbone) -> Statistics:
        return measure(sites, spec, backbone, batches, loss, seed)

    return adapt_by(recipe, model, new_parts, seed, measured)


def listed(names: str | Sequence[str] | None) -> list[str] | None:
    """One name as a list of one."""
    return None if names is None else as_list(names)


def adapt_by(recipe: Recipe, model: nn.Module, new_parts: Sequence[str], seed: int, measured: Measured) -> Adapted:
    """``adapt`` as the recipe's adapter section says, with these parameters trained whole."""
    section = recipe.adapter
    check_adapted_once(model)
    backbone = own_backbone(model, new_parts)
    linear, shortcut = resolve(section), shortcut_spec(section)
    if problems := conflicts_with_base(linear, recipe.model):
        raise RecipeError(problems)
    check_places(section, backbone)
    sites, ranks = choose_sites(recipe, backbone)
    check_own_forward(model, sites)
    options = read_site_options(recipe, linear, sites)
    modes = {module: module.training for module in model.modules()}
    adapted = attach(
        backbone,
        sites,
        linear,
        shortcut,
        norm=section.shortcut_norm,
        ranks=ranks,
        options=options,
        block=methods.get(section.method).block,
        statistics=measured(sites, linear, backbone),
        exact=section.init_svd == "exact",
        generator_for=lambda name: generator(seed, f"init/{name}"),
    )
    train_new_parts(model, backbone.new_parts)
    adapted.switch(adapted.adapters)
    for module, mode in modes.items():
        module.training = mode
    if getattr(model, "is_gradient_checkpointing", False):
        recompute_layers(adapted)
    tell_rates(adapted, section.method)
    return Adapted(adapted, section, linear, shortcut, ranks, options, seed)


def check_adapted_once(model: nn.Module) -> None:
    """UsageError for a model that has adapters."""
    if any(isinstance(module, Adapter) for module in model.modules()):
        what = "this model has adapters of lorakit already, and a second set would stand on the first"
        raise UsageError(what, hint="the Adapted object that is there; its merge() first; or a fresh model")


def check_own_forward(model: nn.Module, sites: Sequence[Site]) -> None:
    """UsageError for a module whose forward another library stands in for: an adapter would take its place."""
    taken = [site.name for site in sites if site.is_module and "forward" in vars(model.get_submodule(site.name))]
    if taken:
        what = f"another library stands in for the forward of {taken[0]}, and an adapter would put it out"
        raise UsageError(what, where=CALL, hint="the model as it is loaded, on one device (without device_map)")


def tell_rates(adapted: AdaptedModel, method: str) -> None:
    """Say loudly where tensors learn faster than others, which no optimiser over bare parameters does."""
    faster_roles = {tensor.role: rate for tensor in adapted.trained() if (rate := faster(adapted, tensor)) != 1}
    for role, rate in faster_roles.items():
        logger.warning(
            "%s: tensors of role %s learn %g times as fast as the others, in an optimiser over adapted.groups(lr) alone",
            method,
            role,
            rate,
        )


def check_for_train(section: AdapterSection) -> None:
    """RecipeError for keys that mean something to lorakit train alone, and for a method that is made of finished runs."""
    delta = deltas.get(resolve(section).delta)
    for name, hint in (
        ("start", "lorakit.attach_saved(model, folder)"),
        ("experts", "lorakit.attach_saved(model, run) has the mixture of a run"),
        ("init_batches", "as many batches in calibration"),
    ):
        if getattr(section, name) != getattr(AdapterSection(), name):
            raise RecipeError("is for lorakit train", where=CALL, key=f"adapter.{name}", hint=hint)
    if delta.over_runs == delta.name:
        what = f"method '{section.method}' mixes the adapters of finished runs, and here are none"
        hint = "lorakit train with adapter.experts, and lorakit.attach_saved(model, run)"
        raise RecipeError(what, where=CALL, key="adapter.method", hint=hint)


def check_no_updates(recipe: Recipe) -> None:
    """RecipeError for a method that does something in every step, which no loop but lorakit's does."""
    if kinds := chosen_updates(recipe):
        name = kinds[0][0].name
        what = f"method '{recipe.adapter.method}' is more than its adapters: update '{name}' acts in every step, and no other loop calls it"
        raise RecipeError(
            what, where=CALL, key="adapter.method", hint=f"lorakit train with adapter.method={recipe.adapter.method}"
        )


def check_places(section: AdapterSection, backbone: Backbone) -> None:
    """RecipeError for a method that needs to know more of a model than the names of its Linear modules."""
    method = methods.get(section.method)
    if isinstance(backbone.anatomy, NamedModules) and deltas.get(resolve(section).delta).pools_rows:
        what = f"looks at whole rows of tokens, and {NOT_KNOWN}"
        raise RecipeError(what, where=CALL, key="adapter.method", hint="method='lora'")
    if isinstance(backbone.anatomy, NamedModules) and (method.block or section.in_full):
        block = blocks.get(method.block or (section.in_full or [""])[0])
        raise RecipeError(
            f"sits on {block.summary}, and {NOT_KNOWN}", where=CALL, key="adapter.method", hint="method='lora'"
        )


def measure(
    sites: Sequence[Site],
    spec: AdapterSpec,
    backbone: Backbone,
    batches: Sequence[OwnBatch] | None,
    loss: OwnLoss,
    seed: int,
) -> Statistics:
    """What the spec's init needs of ``batches``, without dropout and without a trace on the model; empty where it needs nothing.

    RecipeError where it needs some and there are none, or the other way round.
    """
    init = inits.get(spec.init)
    if not init.looks_at_data:
        if batches is not None:
            raise RecipeError(
                f"init '{init.name}' looks at no data", where=CALL, key="calibration", hint="leave it out"
            )
        return NO_SITE_STATISTICS
    if not batches:
        what = f"init '{init.name}' starts from training rows, and none are given"
        raise RecipeError(what, where=CALL, key="calibration", hint="calibration=[batch, ...], about eight of them")
    if init.needs != "covariance" and any(LABELS not in batch for batch in batches):
        raise UsageError(f"init '{init.name}' looks at gradients, and needs batches with {LABELS}", where=CALL)
    model, passes = backbone.model, Passes(loss)
    linear = [site for site in sites if site.kind in ("linear", "conv1d")]
    with without_trace(AdaptedModel(backbone, {}, None), train_mode=False, seed=derive_seed(seed, ROWS)):
        if init.needs == "covariance":
            found = input_means(model, linear, batches, passes.logits)
        else:
            gradients = weight_gradients(model, linear, batches, passes.summed)
            found = {name: {"gradient": gradient} for name, gradient in gradients.items()}
    if broken := [name for name, of in found.items() if not all(tensor.isfinite().all() for tensor in of.values())]:
        raise RunError(f"init '{init.name}' needs finite numbers of training rows, and got others", where=broken[0])
    return found
