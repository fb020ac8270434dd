"""``lorakit show METHOD``: what a method is, what it costs on a model, and what it goes together with."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lorakit.adapters.counting import costs, shared_cost
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import inits
from lorakit.adapters.method import Method, methods, resolve
from lorakit.adapters.spec import SCALES, AdapterSpec
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError
from lorakit.recipe.schema import AdapterSection, ModelSection
from lorakit.registry import Registry
from lorakit.training.update import updates as all_updates
from lorakit.workflow.setup import Result

LABELS = ("0", "1")


@dataclass(frozen=True)
class SiteCount(Result):
    """The sites of one role and shape: how many, the tensors of each, and the trained parameters of all of them."""

    role: str
    shape: str
    sites: int
    tensors: dict[str, list[int]]
    parameters: int


@dataclass(frozen=True)
class Count(Result):
    """What the method costs on one model at one rank; shared: what its sites have in common; share: of the backbone, in percent."""

    model: str
    rank: int
    targets: list[str]
    sites: list[SiteCount]
    shared: int
    parameters: int
    share: float


@dataclass(frozen=True)
class MethodCard(Result):
    """text: the header of the method's file; axes and usual: the preset; options: of its delta, with default and meaning; count: None
    where the model is not at hand, ``no_count`` says why; composes: axis -> value -> why not, empty where it goes together;
    updates: what goes on while it trains, name -> that file's header.
    """

    name: str
    title: str
    source: str
    text: str
    axes: dict[str, Any]
    usual: dict[str, Any]
    options: dict[str, str]
    count: Count | None
    no_count: str
    composes: dict[str, dict[str, str]]
    updates: dict[str, str]


def describe(name: str, model: ModelSection, *, required: bool = False) -> MethodCard:
    """The card of the method called ``name``, counted on ``model``. Nothing is downloaded.

    required: whether a model that cannot be loaded is an error and not just told.
    """
    method = methods.get(name)
    spec = resolve(AdapterSection(method=name))
    no_count, counted = "", None
    backbone = None
    try:
        backbone = load_backbone(model, labels=LABELS, regression=False, seed=0, offline=True)
        counted = count_on(method, backbone)
    except LorakitError as error:
        if required and backbone is None:
            raise
        no_count = error.problems[0].what
    delta = deltas.get(spec.delta)
    return MethodCard(
        name=name,
        title=method.title,
        source=method.source,
        text=header(methods, name) or method.summary,
        axes=axes_of(method, spec),
        usual=usual_values(method, delta),
        options={key: f"{spec.settings[key]}: {option.doc}" for key, option in delta.options.items()},
        count=counted,
        no_count=no_count,
        composes=compositions(method),
        updates={update: header(all_updates, update) for update in method.updates},
    )


def header(known: Registry[Any], name: str) -> str:
    """The docstring of the file that registers ``name``; empty for what another package brings."""
    known.get(name)  # which reads the files, where nobody has asked for one of them before
    return inspect.getdoc(sys.modules.get(f"{known.package}.{name}")) or ""


def usual_values(method: Method, delta: type[Delta]) -> dict[str, Any]:
    """What the method takes where a recipe does not say: as far as it means anything to this method."""
    values: dict[str, Any] = {} if method.block else {"targets": list(method.targets)}
    if not delta.replaces_parameters:
        values["rank"] = method.rank
    if method.scale != "none":
        values["alpha"] = method.alpha
    return values | {"lr": method.lr}


def axes_of(method: Method, spec: AdapterSpec) -> dict[str, Any]:
    """The method's value on every axis."""
    values = asdict(spec)
    names = ("delta", "init", "scale", "trainable", "decomposition", "lr_ratio")
    return {name: values[name] for name in names} | {"block": method.block, "updates": list(method.updates)}


def compositions(method: Method) -> dict[str, dict[str, str]]:
    """Axis -> value -> the reason why it does not go with this method, empty where it does."""
    axes: dict[str, Sequence[object]] = {
        "init": inits.names(),
        "scale": list(SCALES),
        "decomposition": ["none", "magnitude"],
        "dropout": [0.1],
        "lr_ratio": [16.0],
    }
    return {axis: {str(value): refusal(method, axis, value) for value in values} for axis, values in axes.items()}


def refusal(method: Method, axis: str, value: object) -> str:
    """Why the method cannot have this value on this axis; empty where it can."""
    try:
        resolve(replace(AdapterSection(method=method.name), **{axis: value}))  # type: ignore[arg-type]
    except LorakitError as error:
        return error.problems[0].what
    return ""


def count_on(method: Method, backbone: Backbone) -> Count:
    """What the method costs on a model at the method's own targets and rank."""
    section = method.fill(AdapterSection(method=method.name))
    sites = method.sites(backbone)
    spec = resolve(section)
    delta = deltas.get(spec.delta)
    limits = [limit for site in sites if (limit := delta.highest_rank(site)) is not None]
    spec = replace(spec, rank=min([spec.rank, *limits]))
    for site in sites:
        if reason := delta.refusal(site, spec.rank, spec.settings):
            raise LorakitError(f"its usual settings do not fit {site.name} of {backbone.name}: {reason}")
    each = costs(sites, spec, spec)
    groups: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        groups.setdefault((site.role, f"{site.out_features}x{site.in_features}"), []).append(site)
    counts = [
        SiteCount(
            role=role,
            shape=shape,
            sites=len(members),
            tensors={key: list(size) for key, size in delta.shapes(members[0], spec.rank, spec.settings).items()},
            parameters=sum(each[site.name] for site in members),
        )
        for (role, shape), members in groups.items()
    ]
    shared = shared_cost(sites, spec, spec)
    total = sum(each.values()) + shared
    size = sum(parameter.numel() for parameter in backbone.model.parameters())
    return Count(
        model=backbone.name,
        rank=spec.rank,
        targets=[] if method.block else list(section.targets or []),
        sites=counts,
        shared=shared,
        parameters=total,
        share=100 * total / size,
    )
