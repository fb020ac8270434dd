"""Methods: named presets over the axes of an adapter, and how a recipe's adapter section becomes one value on every axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorakit.adapters.block import blocks
from lorakit.adapters.conflicts import conflicts, idle_settings
from lorakit.adapters.delta import deltas
from lorakit.adapters.init import inits
from lorakit.adapters.spec import AdapterSpec, read_options
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import AdapterSection
from lorakit.registry import Registry

if TYPE_CHECKING:
    from lorakit.backbone.load import Backbone
    from lorakit.backbone.site import Site


@dataclass(frozen=True)
class Method:
    """A named preset over the axes of ``AdapterSpec``, with what `lorakit show` tells about it."""

    name: str
    """What recipes call it."""
    title: str
    """Its full name."""
    summary: str
    """Its formula in one line."""
    source: str
    """Paper and section."""
    delta: str = "low_rank"
    """What dW is made of."""
    init: str = "kaiming"
    """Where it starts."""
    scale: str = "lora"
    """The rule for s."""
    trainable: str = "all"
    """The roles that train."""
    decomposition: str = "none"
    """magnitude or none."""
    lr_ratio: float = 1.0
    """The learning rate of B over that of A."""
    targets: tuple[str, ...] = ("q", "v")
    """The projections it usually sits on: roles, where the recipe names none."""
    rank: int = 8
    """Its usual rank."""
    alpha: float = 16.0
    """Its usual alpha."""
    lr: float = 5e-4
    """Its usual learning rate."""
    options: tuple[tuple[str, str], ...] = ()
    """Options of its delta."""
    block: str | None = None
    """Where it sits, for what is not an update of a projection's weight: a file in ``blocks/``."""
    in_full: tuple[str, ...] = ()
    """What of the model's own parameters trains beside the adapters: files in ``blocks/``."""
    updates: tuple[str, ...] = ()
    """What goes on during training."""
    update_options: tuple[tuple[str, str], ...] = ()
    """Options of these."""
    identity: bool = True
    """Whether a fresh model is exactly the pretrained one."""
    tangent: bool = False
    """Whether it is LoRA's tangent at B = 0: with another start, or an A that trains, it would be something else."""

    def fill(self, section: AdapterSection) -> AdapterSection:
        """The section with this method's own targets, rank, alpha and what trains in full where it gives none."""
        return replace(
            section,
            targets=list(self.targets) if section.targets is None else section.targets,
            rank=self.rank if section.rank is None else section.rank,
            alpha=self.alpha if section.alpha is None else section.alpha,
            in_full=list(self.in_full) if section.in_full is None else section.in_full,
        )

    def sites(self, backbone: Backbone, targets: Sequence[str] | None = None) -> list[Site]:
        """Where it sits: its block's places, or the projections that ``targets`` name (its usual ones by default)."""
        if self.block:
            block = blocks.get(self.block)
            return block.sites(backbone)
        return backbone.anatomy.select(self.targets if targets is None else targets)

    def sites_in_full(self, backbone: Backbone, names: Sequence[str] | None = None) -> list[Site]:
        """The modules whose own parameters train beside it: those of ``names`` (its usual ones by default)."""
        return [
            site for name in (self.in_full if names is None else names) for site in blocks.get(name).sites(backbone)
        ]

    def resolve(self, section: AdapterSection) -> AdapterSpec:
        """See ``resolve``: here for who knows methods by name only."""
        return resolve(section)


methods: Registry[Method] = Registry("adapter method", "lorakit.adapters.methods")


def resolve(section: AdapterSection) -> AdapterSpec:
    """The sites' axes: the method's values, overridden by what the recipe sets.

    Raises RecipeError for names that are not registered and for values that do not go together, all of them at once.
    """
    method = methods.get(section.method)
    section = method.fill(section)
    assert section.rank is not None
    assert section.alpha is not None
    delta = section.delta or method.delta
    own = dict(method.options) if delta == method.delta else {}
    if section.experts:
        delta, own = of_runs(section, delta), own | {"experts": str(len(section.experts))}
    if method.block and section.in_full:
        what = f"method '{method.name}' sits on {blocks.get(method.block).summary}, and nothing is trained beside that"
        raise RecipeError(what, key="adapter.in_full", valid="[] with it", hint="adapter.method=lora")
    spec = AdapterSpec(
        delta=delta,
        init=section.init or default_init(method, delta),
        scale=section.scale or ("none" if section.experts else default_scale(method, delta)),
        trainable=section.trainable or (method.trainable if delta == method.delta else "all"),
        decomposition=section.decomposition or method.decomposition,
        lr_ratio=method.lr_ratio if section.lr_ratio is None else section.lr_ratio,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        options=tuple(read_options(delta, {**own, **section.options}).items()),
        init_steps=section.init_steps,
    )
    problems = [*conflicts(spec), *idle_settings(section, inits.get(spec.init))]
    if method.tangent:
        problems += no_tangent(method, spec)
    if problems:
        raise RecipeError(problems)
    return spec


def unmergeable(section: AdapterSection) -> str:
    """Why what a run of this section trains on its sites is in no weight, empty where it can be."""
    return deltas.get(resolve(section).delta).unmergeable


def no_tangent(method: Method, spec: AdapterSpec) -> list[Problem]:
    """Why these axes are no longer the tangent that the method is: it is linear in B alone where B starts at zero and A stays."""
    init, problems = inits.get(spec.init), []
    if init.factors and init.zero != "B":
        what = f"init '{spec.init}' starts B away from zero, where the tangent has a part in A: it would no longer be {method.title}"
        starts = ", ".join(name for name, each in inits.items() if not each.factors or each.zero == "B")
        problems.append(Problem(what, key="adapter.init", valid=starts, hint="adapter.method=lora_fa"))
    if spec.trains("A"):
        what = f"A would train, and with it this is no longer {method.title}"
        problems.append(Problem(what, key="adapter.trainable", valid=method.trainable, hint="adapter.method=lora"))
    return problems


def of_runs(section: AdapterSection, delta: str) -> str:
    """The delta of the mixture ``delta`` over the adapters of finished runs. RecipeError where there is none of these, or no mixture."""
    key, number, over = "adapter.experts", len(section.experts), deltas.get(delta).over_runs
    if not over:
        takers = ", ".join(name for name, method in methods.items() if deltas.get(method.delta).over_runs)
        what = f"delta '{delta}' of method '{section.method}' takes no adapters of finished runs for experts"
        raise RecipeError(what, key=key, valid=f"adapter.method: {takers}")
    if number < 2:
        raise RecipeError("one run is no mixture", key=key, valid="two or more", hint="adapter.start goes on from one")
    if section.options.get("experts", str(number)) != str(number):
        what = f"experts: {section.options['experts']} is given, and adapter.experts names {number} runs"
        raise RecipeError(what, key="adapter.options", valid=f"experts: {number}, or no such option")
    return over


def default_init(method: Method, delta: str) -> str:
    """The method's init; with another delta than the method's, one that it can start from."""
    if delta == method.delta:
        return method.init
    if not deltas.get(delta).needs_init():
        return "nothing"
    return method.init if method.init != "nothing" else "kaiming"


def default_scale(method: Method, delta: str) -> str:
    """The method's scale rule; with another delta than the method's, none where that one is no sum."""
    kind = deltas.get(delta)
    return method.scale if delta == method.delta or kind.additive or kind.branches else "none"


def shortcut_spec(section: AdapterSection) -> AdapterSpec:
    """The shortcuts' axes: as the linear sites', with their own rank and alpha, without what looks at a weight or is shared.

    A delta that cannot sit on a shortcut leaves them to LoRA.
    """
    spec = resolve(section)
    delta = deltas.get(spec.delta)
    if "shortcut" not in delta.kinds or delta.shared_roles:
        spec = resolve(AdapterSection(dropout=section.dropout, rank=spec.rank, alpha=spec.alpha))
    return replace(
        spec,
        init="kaiming" if deltas.get(spec.delta).needs_init() else "nothing",
        decomposition="none",
        rank=section.shortcut_rank or spec.rank,
        alpha=spec.alpha if section.shortcut_alpha is None else section.shortcut_alpha,
    )
