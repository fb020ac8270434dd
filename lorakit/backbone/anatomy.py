"""What lorakit knows of a model's inside: its layers, each projection's role, and where its residual sums are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from lorakit.backbone.families import Family, families
from lorakit.backbone.guessing import adaptable_modules, find_layers, guess_role, shape_of
from lorakit.backbone.residual_sums import ResidualSums, find_residual_sums
from lorakit.backbone.site import ROLES, Site
from lorakit.errors import Problem, RecipeError, nearest
from lorakit.recipe.schema import SHORTCUTS

FUSED = {"q": "qkv", "k": "qkv", "v": "qkv"}


class Anatomy:
    """The adaptable sites of a sequence-classification model.

    Raises RecipeError (key ``model.name``) when the model has no layers that could be adapted.
    """

    family: str
    """The registered family's name, or the transformers model type where no family is registered for it."""
    layers: list[tuple[str, nn.Module]]
    """(path, module) of each layer."""
    sites: list[Site]
    """Every Linear and Conv1D of the layers, in model order, the head never."""
    elsewhere: tuple[str, ...]
    """The paths of those outside the layers."""
    residual_sums: list[ResidualSums]
    """One for each layer, empty where shortcuts cannot be wired in."""
    no_shortcuts: str
    """The reason for that, else empty."""
    hidden_size: int
    """The width of the residual stream."""

    def __init__(self, model: Any):
        model_type = str(model.config.model_type)
        self.hidden_size = int(getattr(model.config.get_text_config(), "hidden_size", 0))
        record = family_of(model_type)
        layers = named_layers(model, record.layers) if record else []
        if record is None or not layers:
            self.family = model_type
            self.layers = find_layers(model)
            self.sites = linear_sites(self.layers, guess_role)
            self.residual_sums = []
            known = ", ".join(families.names())
            self.no_shortcuts = f"where its residual sums are is not known; known families: {known}"
        else:
            roles = record.roles
            self.family = record.name
            self.layers = layers
            self.sites = linear_sites(layers, lambda path: roles.get(path, "other"))
            self.residual_sums, self.no_shortcuts = find_residual_sums(layers, record, model.config)
        if not self.sites:
            raise RecipeError(
                f"no layers with Linear or Conv1D modules were found in this {model_type} model", key="model.name"
            )
        inside = {site.name for site in self.sites}
        self.elsewhere = tuple(name for name, _ in adaptable_modules(model) if name not in inside)

    @property
    def roles(self) -> list[str]:
        """The roles this model has, in the usual order."""
        found = {site.role for site in self.sites}
        return [role for role in (*ROLES, "qkv", "other") if role in found]

    def select(self, targets: Sequence[str]) -> list[Site]:
        """The sites that ``targets`` name, in model order, each once.

        An entry is a role (q, k and v also select a fused ``qkv``), ``all``, or a regex that matches a module's path as PEFT
        does it: ``(.*\\.)?(REGEX)`` from start to end. Raises RecipeError (key ``adapter.targets``) for every entry that
        matches nothing.
        """
        chosen: set[str] = set()
        problems: list[Problem] = []
        for target in targets:
            found = self._named(target)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                chosen.update(site.name for site in found)
        if problems:
            raise RecipeError(problems)
        return [site for site in self.sites if site.name in chosen]

    def _named(self, target: str) -> list[Site] | Problem:
        if target == "all":
            return self.sites
        if by_role := self._of_role(target):
            return by_role
        try:
            re.compile(target)
            pattern = re.compile(rf"(.*\.)?({target})")
        except re.error as error:
            what = f"'{target}' is not a role, nor a regex: {error}"
            return Problem(what, key="adapter.targets", valid=self._choices())
        by_name = [site for site in self.sites if pattern.fullmatch(site.name)]
        if by_name:
            return by_name
        outside = [name for name in self.elsewhere if pattern.fullmatch(name)]
        what = f"'{target}' matches no module of this {self.family} model's layers"
        if outside:
            what += f"; '{outside[0]}' is outside them, and only they are adapted (a head trains in full)"
        return Problem(what, key="adapter.targets", valid=self._choices(), hint=self._nearest(target))

    def _of_role(self, target: str) -> list[Site]:
        return [site for site in self.sites if site.role in (target, FUSED.get(target))]

    def _inner_names(self) -> list[str]:
        paths = [path for path, _ in self.layers]
        return list(dict.fromkeys(site.name.removeprefix(f"{paths[site.layer]}.") for site in self.sites))

    def _choices(self) -> str:
        names = self._inner_names()
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"roles {' '.join(self.roles)}, all, or a regex for module names such as {shown}"

    def _nearest(self, target: str) -> str:
        names = self._inner_names()
        words = dict.fromkeys([name.rpartition(".")[2] for name in names] + names + self.roles)
        close = difflib.get_close_matches(target, words, n=3, cutoff=0.6)
        return f"did you mean {' or '.join(repr(word) for word in close)}?" if close else ""

    def shortcuts(self, names: Sequence[str]) -> list[Site]:
        """The shortcut sites of these kinds, layer by layer, each (hidden width, hidden width).

        res1 and res2 stand in every layer, ``in`` too (it lands on the layer's output), ``mid`` in every layer but the first,
        ``cut`` in every layer but the last. Raises RecipeError (key ``adapter.shortcuts``) for an unknown name, for a kind
        that a model of one layer cannot have, and by name where the model's residual sums are out of reach.
        """
        problems = [
            Problem(
                f"there is no shortcut called '{name}'",
                key="adapter.shortcuts",
                valid=" ".join(SHORTCUTS),
                hint=nearest(name, SHORTCUTS),
            )
            for name in names
            if name not in SHORTCUTS
        ]
        if not problems and names and self.no_shortcuts:
            text = (
                f"{', '.join(dict.fromkeys(names))} cannot be attached to this {self.family} model: {self.no_shortcuts}"
            )
            problems.append(Problem(text, key="adapter.shortcuts", hint="leave adapter.shortcuts empty"))
        last = len(self.layers) - 1
        if not problems and last == 0:
            problems += [
                Problem(f"'{name}' joins two layers, and this model has one", key="adapter.shortcuts")
                for name in ("cut", "mid")
                if name in names
            ]
        if problems:
            raise RecipeError(problems)
        return [
            Site(f"{path}.{role}", layer, role, self.hidden_size, self.hidden_size, "shortcut")
            for layer, (path, _) in enumerate(self.layers)
            for role in SHORTCUTS
            if role in names and not (role == "mid" and layer == 0) and not (role == "cut" and layer == last)
        ]


def family_of(model_type: str) -> Family | None:
    """The registered family that serves this transformers model type."""
    return next((family for _, family in families.items() if model_type in family.model_types), None)


def named_layers(model: Any, path: str) -> list[tuple[str, nn.Module]]:
    """The (path, layer) pairs of the list at ``path`` from the base model; empty where custom code put them elsewhere."""
    prefix = model.base_model_prefix
    path = f"{prefix}.{path}" if prefix else path
    try:
        found = model.get_submodule(path)
    except AttributeError:
        return []
    return [(f"{path}.{name}", layer) for name, layer in found.named_children()]


def linear_sites(layers: Sequence[tuple[str, nn.Module]], role_of: Callable[[str], str]) -> list[Site]:
    """A site for every adaptable module of the layers; ``role_of`` maps a path inside a layer to a role."""
    sites = []
    for number, (path, layer) in enumerate(layers):
        for inner, module in adaptable_modules(layer):
            name = ".".join(filter(None, (path, inner)))
            kind = "conv1d" if isinstance(module, Conv1D) else "linear"
            bias = getattr(module, "bias", None) is not None
            sites.append(Site(name, number, role_of(inner), *shape_of(module), kind, bias))  # type: ignore[arg-type]
    return sites
