"""A plain LoRA in the place of a run's own adapters, for what writes a run that was never trained (combine, quantize, compress)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorakit.artifacts.combination import Factors, Update
from lorakit.artifacts.peft.translate import placed
from lorakit.errors import RunError
from lorakit.recipe.load import LoadedRecipe, with_usual
from lorakit.recipe.schema import SearchSection
from lorakit.workflow.restore import RestoredRun


def renamed(restored: RestoredRun, name: str, **sections: Any) -> LoadedRecipe:
    """The run's recipe under another name, with these sections in the place of its own."""
    recipe = restored.loaded.recipe
    changed = replace(recipe, run=replace(recipe.run, name=name), **sections)
    return replace(restored.loaded, recipe=with_usual(changed), name=name)


def as_plain_lora(restored: RestoredRun, name: str, ranks: Mapping[str, int], **sections: Any) -> LoadedRecipe:
    """The same with a LoRA of scale 1 and these ranks (site -> rank), and no search."""
    backbone = restored.parts.backbone
    section = placed(backbone, [site for site in backbone.anatomy.sites if site.name in ranks], ranks, "lora")
    section.scale = "none"
    return renamed(restored, name, adapter=section, search=SearchSection(), **sections)


def check_projections_alone(restored: RestoredRun, purpose: str, hint: str) -> None:
    """RunError where an adapter is no update of a projection's weight, which is all that ``purpose``."""
    known = {site.name for site in restored.parts.backbone.anatomy.sites}
    if foreign := [name for name in restored.adapted.in_function if name not in known]:
        what = f"{foreign[0]} is no update of a projection's weight, which is all that {purpose}"
        raise RunError(what, where=str(restored.run.path), hint=hint)


def low_rank_factors(
    updates: Mapping[str, Update], restored: RestoredRun, why: str, **what_else: str
) -> dict[str, Factors]:
    """Site -> (b, a). RunError where an update is not of low rank, and ``why`` that matters; what_else: of the error."""
    if wide := [name for name, update in updates.items() if update.factors is None]:
        raise RunError(f"the update of {wide[0]} is not of low rank{why}", where=str(restored.run.path), **what_else)
    return {name: update.factors for name, update in updates.items() if update.factors is not None}
