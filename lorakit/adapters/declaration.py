"""What a delta says of itself before one is built: its tensors, their roles and ranks, where it can sit, what it can do.

Counting, budgets, checks of recipes, freezing, learning rates, pruning, saving and export are written once, from these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lorakit.adapters.options import NO_OPTIONS, Option, Options, with_defaults
from lorakit.adapters.starts import Start
from lorakit.backbone.site import Site

Shape = tuple[int, ...]

START = "start"
"""The role of tensors that keep what was learnt before (``anchored``, ``mixture``): they never train, whatever `trainable` says."""


class Declaration(ABC):
    """The part of a delta that belongs to its class."""

    name: ClassVar[str]
    """What recipes call it."""
    roles: ClassVar[Mapping[str, str]]
    """Tensor -> its role: A, B, gate, core, vector, ... What trains, and how fast, is said by role."""
    starts: ClassVar[Mapping[str, Start]]
    """Tensor, own or shared -> the constant it starts at, or what draws it. The recipe's init fills the others."""
    rank_axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {}
    """Tensor -> the axis, or axes, along which its rank units lie. The function reads those tensors with ``Delta.tensor``."""
    sliceable: ClassVar[bool] = False
    """Whether its first k rank units are the same parametrisation of rank k, so that a cut slices the others off."""
    closed_by: ClassVar[tuple[str, ...]] = ()
    """The tensors in which zeros take a rank unit out, where they are not those that ``rank_units.closers`` finds."""
    shared_roles: ClassVar[Mapping[str, str]] = {}
    """Tensors that sites have in common -> their roles."""
    options: ClassVar[Mapping[str, Option]] = {}
    """Its own options (recipe: adapter.options), whose values an instance has as ``settings``."""
    lr_factors: ClassVar[Mapping[str, float]] = {}
    """Role -> how many times faster than the others it learns."""
    kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "shortcut")
    """The kinds of site it can sit on (``Site.kind``)."""
    free_rank: ClassVar[bool] = False
    """Whether any rank will do, or there is none; else the narrower width of a site is the limit."""
    additive: ClassVar[bool] = True
    """Whether the layer is ``W x + b + s dW x``; else ``Delta.layer_forward`` computes it."""
    branches: ClassVar[bool] = False
    """Whether one that is not ``additive`` has a branch ``s B A x`` all the same, which takes a scale and dropout."""
    takes_factors: ClassVar[bool] = False
    """Whether ``Delta.set_factors`` can make it any product B A."""
    plain_product: ClassVar[bool] = False
    """Whether dW is B A for its two tensors of these names, whatever they are: then any other factors of dW do as well."""
    stacks: ClassVar[bool] = False
    """Whether dW is a product of more rank units than those that train, which ``Delta.set_stack`` writes anew."""
    replaces_parameters: ClassVar[bool] = False
    """Whether its tensors stand in for the module's own parameters."""
    unmergeable: ClassVar[str] = ""
    """Why it cannot be folded into a weight, empty where it can."""
    pools_rows: ClassVar[bool] = False
    """Whether what it does with a token depends on the other tokens of its row (``Delta.wiring``)."""
    over_runs: ClassVar[str] = ""
    """The delta of the same mixture whose experts are adapters of finished runs (recipe: adapter.experts), its own name where it has no
    others; empty for what is made of no such experts."""
    keeps_dense: ClassVar[str] = ""
    """Why quantising W would save nothing, empty where a dense W is never held for longer than a product."""
    only_over: ClassVar[str] = ""
    """How W must be quantised for it (``model.quantization``), empty where it goes with any."""
    peft_names: ClassVar[Mapping[str, str]] = {}
    """Tensor -> its name in PEFT's files, empty where PEFT has no such parametrisation."""

    @classmethod
    @abstractmethod
    def shapes(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> dict[str, Shape]:
        """Tensor -> shape, of a site's own tensors."""

    @classmethod
    def shared_shapes(cls, sites: Sequence[Site], rank: int, options: Options = NO_OPTIONS) -> dict[str, Shape]:
        """Tensor -> shape, of what ``sites``, one ``group``, have in common; ``rank`` is the highest among them."""
        return {}

    @classmethod
    def group(cls, site: Site) -> str:
        """Sites of one group share their ``shared_roles`` tensors."""
        return "all"

    @classmethod
    def role_of(cls, name: str) -> str:
        """The role of its own tensor ``name``."""
        return cls.roles[name]

    @classmethod
    def settings_of(cls, options: Options) -> dict[str, Any]:
        """The value of every option: as ``options`` say, its default where they do not."""
        return with_defaults(cls.options, options)

    @classmethod
    def needs_init(cls) -> bool:
        """Whether it has tensors without a start of their own, which an init must fill."""
        return any(name not in cls.starts for name in (*cls.roles, *cls.shared_roles))

    @classmethod
    def highest_rank(cls, site: Site) -> int | None:
        """The largest rank that makes sense on ``site``; None where there is no limit."""
        return None if cls.free_rank else min(site.in_features, site.out_features)

    @classmethod
    def refusal(cls, site: Site, rank: int, options: Options = NO_OPTIONS) -> str:
        """Why it cannot sit on ``site``, empty where it can: widths that do not divide, a bias that is missing."""
        return ""

    @classmethod
    def misfit(cls, rank: int, options: Options = NO_OPTIONS) -> str:
        """Why its settings go together on no site of this rank, empty where they do."""
        return ""

    @classmethod
    def stuck(cls, trains: Callable[[str], bool]) -> str:
        """A tensor that keeps the update at zero for ever because it starts at zero and does not train; empty where none does.

        ``trains`` says of a role whether it trains. In a product one such tensor is enough, of those that may train at all; a delta that
        is another sum overrides this.
        """
        roles = {name: role for name, role in {**cls.roles, **cls.shared_roles}.items() if role != START}
        return next((name for name, role in roles.items() if cls.starts.get(name) == 0.0 and not trains(role)), "")
