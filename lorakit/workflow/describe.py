"""``lorakit show METHOD``: what a method is, what it costs on a model, and what it goes together with."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lorakit.adapters.counting import costs, shared_cost, tensor_shapes
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import inits
from lorakit.adapters.method import Method, methods, resolve
from lorakit.adapters.spec import SCALES, AdapterSpec
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.site import Site
from lorakit.errors import LorakitError
from lorakit.recipe.schema import AdapterSection, ModelSection
from lorakit.recipe.values import written
from lorakit.registry import Registry
from lorakit.result import Result
from lorakit.training.update import updates as all_updates

LABELS = ("0", "1")
DEMO_MODEL = "bundled:minilm"


@dataclass(frozen=True)
class SiteCount(Result):
    """The sites of one role and shape.

    Attributes:
        role: which projection or shortcut they are.
        shape: of their weights, ``OUTxIN``.
        sites: how many there are.
        tensors: what each trains, name -> shape.
        parameters: of all of them.
    """

    role: str
    shape: str
    sites: int
    tensors: dict[str, list[int]]
    parameters: int


@dataclass(frozen=True)
class Count(Result):
    """What a method costs on one model at one rank.

    Attributes:
        model: the model's name.
        rank: the method's usual one, or the highest that fits.
        targets: the roles that the method sits on; empty for one with places of its own.
        sites: by role and shape.
        shared: trained parameters that sites have in common.
        parameters: trained, all together.
        share: that in percent of the model's.
    """

    model: str
    rank: int
    targets: list[str]
    sites: list[SiteCount]
    shared: int
    parameters: int
    share: float


@dataclass(frozen=True)
class MethodCard(Result):
    """What a method is.

    Attributes:
        name: what recipes call it.
        title: its full name.
        source: paper and section.
        text: the header of its file: the story, the formula, when to use it.
        axes: the preset, axis -> value.
        usual: what it takes where a recipe does not say.
        options: settings of its delta, name -> default and meaning.
        count: what it costs on the model; None where that is not at hand.
        no_count: why not; empty where there is a count.
        composes: axis -> value -> why it does not go with the method, empty where it does.
        updates: what goes on while it trains, name -> the header of that file.
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


def describe(method: str, *, model: str | None = None) -> MethodCard:
    """Tell what an adapter method is, what it costs on a model, and what it goes together with. Nothing is downloaded.

    Args:
        method: its name, such as ``lora`` (see `lorakit list methods`).
        model: the model to count on: a folder, a bundled model, or a hub name that was downloaded before. The bundled encoder by
            default, and no count where that is not installed.

    Returns:
        The method's card.

    Raises:
        UsageError: where there is no such method.
        LorakitError: where the named model cannot be loaded.

    Example:
        >>> card = lorakit.describe("dora")                                    # doctest: +SKIP
        >>> print(card.text)                                                   # doctest: +SKIP
    """
    known = methods.get(method)
    spec = resolve(AdapterSection(method=method))
    no_count, counted = "", None
    backbone = None
    try:
        section = ModelSection(name=DEMO_MODEL if model is None else model)
        backbone = load_backbone(section, labels=LABELS, regression=False, seed=0, offline=True)
        counted = count_on(known, backbone)
    except LorakitError as error:
        if backbone is None and model is not None:
            raise
        no_count = error.problems[0].what
    delta = deltas.get(spec.delta)
    return MethodCard(
        name=method,
        title=known.title,
        source=known.source,
        text=header(methods, method) or known.summary,
        axes=axes_of(known, spec),
        usual=usual_values(known, delta),
        options={key: f"{written(spec.settings[key])}: {option.doc}" for key, option in delta.options.items()},
        count=counted,
        no_count=no_count,
        composes=check_compositions(known),
        updates={update: header(all_updates, update) for update in known.updates},
    )


def header(registry: Registry[Any], name: str) -> str:
    """The docstring of the file that registers ``name``; empty for what another package brings."""
    registry.get(name)  # which reads the files, where nobody has asked for one of them before
    return inspect.getdoc(sys.modules.get(f"{registry.package}.{name}")) or ""


def usual_values(method: Method, delta: type[Delta]) -> dict[str, Any]:
    """What the method takes where a recipe does not say: as far as it means anything to this method."""
    values: dict[str, Any] = {} if method.block else {"targets": list(method.targets)}
    if method.in_full:
        values["in_full"] = list(method.in_full)
    if not delta.replaces_parameters:
        values["rank"] = method.rank
    if method.scale != "none":
        values["alpha"] = method.alpha
    if method.update_options:
        values["update_options"] = dict(method.update_options)
    return values | {"lr": method.lr}


def axes_of(method: Method, spec: AdapterSpec) -> dict[str, Any]:
    """The method's value on every axis."""
    values = asdict(spec)
    names = ("delta", "init", "scale", "trainable", "decomposition", "lr_ratio")
    return {name: values[name] for name in names} | {"block": method.block, "updates": list(method.updates)}


def check_compositions(method: Method) -> dict[str, dict[str, str]]:
    """Axis -> value -> the reason why it does not go with this method, empty where it does."""
    axes: dict[str, Sequence[object]] = {
        "init": inits.names(),
        "scale": list(SCALES),
        "decomposition": ["none", "magnitude"],
        "dropout": [0.1],
        "lr_ratio": [16.0],
    }
    return {axis: {str(value): why_refused(method, axis, value) for value in values} for axis, values in axes.items()}


def why_refused(method: Method, axis: str, value: object) -> str:
    """Why the method cannot have this value on this axis; empty where it can."""
    try:
        resolve(replace(AdapterSection(method=method.name), **{axis: value}))  # type: ignore[arg-type]
    except LorakitError as error:
        return error.problems[0].what
    return ""


def count_on(method: Method, backbone: Backbone) -> Count:
    """What the method costs on a model at the method's own targets and rank."""
    section = method.fill(AdapterSection(method=method.name))
    adapted = method.sites(backbone)
    sites = [*adapted, *method.sites_in_full(backbone)]
    spec = resolve(section)
    delta = deltas.get(spec.delta)
    limits = [limit for site in adapted if (limit := delta.highest_rank(site)) is not None]
    spec = replace(spec, rank=min([spec.rank, *limits]))
    for site in adapted:
        if reason := delta.misfit(spec.rank, spec.settings) or delta.refusal(site, spec.rank, spec.settings):
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
            tensors={key: list(size) for key, size in tensor_shapes(members[0], spec).items()},
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
