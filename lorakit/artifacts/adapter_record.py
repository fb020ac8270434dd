"""What lorakit.json says of an adapter's sites, looked at before it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import inits
from lorakit.adapters.spec import SCALES, AdapterSpec, read_options
from lorakit.adapters.switching import DROPPED, FROZEN, ON
from lorakit.artifacts.records import number

STATES = (DROPPED, FROZEN, ON)
MOST_LAYERS = 10_000


def check_site(site: Any) -> None:
    """Refuse what is no entry of lorakit.json's sites, with KeyError, TypeError or ValueError."""
    if not isinstance(site["name"], str) or site["state"] not in STATES:
        raise ValueError(f"a site has a name, and a state: {', '.join(STATES)}")
    if "scale" in site:
        number(site["scale"], "scale")
    for name in ("rank", "full_rank", "parameters"):
        if name in site:
            number(site[name], name, low=0, whole=True)
    if not -1 <= number(site.get("layer", 0), "layer", whole=True) <= MOST_LAYERS:
        raise ValueError(f"no model has a layer {site['layer']}")
    units = site.get("units")
    if units is not None:
        if not isinstance(units, list):
            raise ValueError("units is no list")
        for unit in units:
            number(unit, "a unit", low=0, whole=True)
        if units != sorted(set(units)):
            raise ValueError("units are in order, each once")


def check_sites(sites: Sequence[Any]) -> None:
    """The same for all of them; no name is there twice."""
    if not isinstance(sites, list):
        raise ValueError("sites is no list")
    for site in sites:
        check_site(site)
    names = [site["name"] for site in sites]
    if len(set(names)) < len(names):
        raise ValueError(f"site {next(name for name in names if names.count(name) > 1)} is there twice")


def check_axes(axes: Any) -> None:
    """Refuse what is no AdapterSpec, with KeyError, TypeError or ValueError; RecipeError for options that its delta does not have."""
    axes = {"init_steps": AdapterSpec.init_steps, **axes}  # which older records do not say
    if unknown := set(axes) ^ {field.name for field in fields(AdapterSpec)}:
        raise ValueError(f"axes have {min(unknown)!r} too many or too few")
    for name, known in (("delta", deltas), ("init", inits), ("scale", SCALES)):
        if not isinstance(axes[name], str) or axes[name] not in known:
            raise ValueError(f"there is no {name} {axes[name]!r:.60}")
    if not isinstance(axes["trainable"], str) or axes["decomposition"] not in ("none", "magnitude"):
        raise ValueError("trainable is a text, decomposition none or magnitude")
    for name in ("rank", "init_steps"):
        number(axes[name], name, low=1, whole=True)
    for name in ("lr_ratio", "alpha", "dropout"):
        number(axes[name], name, low=0)
    given = dict(axes["options"])
    read = read_options(axes["delta"], {name: str(value) for name, value in given.items()})
    if axes["dropout"] >= 1 or [(type(read[name]), read[name]) for name in given] != [
        (type(v), v) for v in given.values()
    ]:
        raise ValueError("dropout or options cannot be used")
