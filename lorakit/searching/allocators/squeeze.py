"""Squeeze: train wide, land narrow. Every site trains at `adapter.rank`, and shrinks to the budget while it trains.

    tick     B A = U S V^T at every site, B' = U S^1/2, A' = S^1/2 V^T      the same update, its units orthogonal (``adapters.balanced``)
    score    of unit i = (s sigma_i)^2 (u_i' G u_i) (v_i' C v_i)            over the parameters it costs; G, C: second moments of output
             gradients and inputs, diagonals alone, in the `search.batches` steps before the tick (``site_moments``)
    basis    weighted: the same of G^1/2 B A C^1/2, whose units do not share what they score (G and C with a tenth of their mean in them)
    choice   the best `floor` units of every site, then the best of all sites, until the tick's budget is spent; what goes is gone
    moments  Adam's go through the same change of basis; for `rewarm` of the steps the learning rate comes back from zero

The `cuts` ticks lie evenly from `begin` to `end` of the steps, and each leaves the same share of the parameters: rank 4 to 1 goes by
2.52 and 1.59. The last `1 - end` of the training has exactly the budget. `search.every` has no effect. Units that are off cost nothing
to compute with. The scale s stays that of `adapter.rank`, so that nothing jumps.
The score is the expected square of what the loss changes by to first order when the unit is taken out, if tokens' gradients are
uncorrelated and independent of inputs (Kronecker-factored: Martens & Grosse 2015); with a magnitude, G is that of what it multiplies.
Each tick tells how far it moved the function: `logits_moved`, the RMS change of the logits of two batches of training rows, without
dropout, beside their RMS size `logits_size`; and `score_kept`, the share of all units' scores that stays.
`ranks` is for controls: shuffled permutes the ranks that were scored among sites that cost the same and are wide enough; uniform gives
every site the same rank. An allocation is worth something where scored beats both.
Works with a plain product B A of which both factors train, from an init that begins at zero: lora, rslora, lora_plus, dora, eva.
Ours; near to AdaLoRA, which keeps the units orthogonal by a penalty and scores single numbers (Zhang et al. 2023).
When to use it: to be studied, where the budget is rank 1 or 2 and a training can pay for rank 2 to 4 in its first half. At tuned rates
(MiniLM, 500 rows of TREC or MPQA, rank 4 to 1, four seeds) it was level with rank 1 trained directly, 0.006 nats [-0.006, 0.017], and the
ranks it scored were level with the same ranks shuffled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapter import Adapter
from lorakit.adapters.balanced import Balanced, balance, wide
from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.options import Option
from lorakit.adapters.switching import DROPPED, ON
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Decision, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import select_units
from lorakit.searching.shuffled_ranks import shuffle_ranks
from lorakit.searching.site_moments import Seen, SiteMoments
from lorakit.searching.unit_allocator import UnitAllocator, Units, rank_for_all
from lorakit.tasks.batching import Batch

logger = logging.getLogger(__name__)

PROBE = 2
"""Batches of training rows on which a tick measures what it changed."""
SMOOTHING = 0.1
"""The part of the mean in the weights of the weighted basis."""
REFACTORING, LISTENING = 60, 8
"""Small operations at a site: to refactor it, and to look at it during a step."""


class Squeeze(UnitAllocator):
    """Re-factors every update at a tick and keeps the best units per parameter."""

    name = "squeeze"
    title = "Squeeze"
    summary = "trains wide, re-factors every update by SVD and keeps the best units per parameter, fewer at each cut"
    source = "lorakit; after AdaLoRA and K-FAC"
    options: ClassVar = {
        "begin": Option(0.4, "share of the steps before the first cut", above=0.0, below=1.0),
        "end": Option(0.7, "share of the steps before the last cut", above=0.0, below=1.0),
        "cuts": Option(3, "how often units go", low=1),
        "floor": Option(1, "units that every site keeps; with 0 sites may go", low=0),
        "rewarm": Option(
            0.02, "share of the steps over which the learning rate comes back after a cut", low=0.0, high=0.2
        ),
        "basis": Option(
            "svd",
            "which units an update is written in: its singular vectors, or those of it weighted as the score weighs it",
            choices=("svd", "weighted"),
        ),
        "ranks": Option(
            "scored",
            "by score; or, as controls, those permuted between sites of the same cost, or the same for all sites",
            choices=("scored", "shuffled", "uniform"),
        ),
    }
    refactors = True
    steady = False

    def __init__(self, context: SearchContext):
        for adapter in context.adapted.adapters.values():
            if problems := conflicts_with_search(adapter.spec, context.search):
                raise RecipeError(problems)
        super().__init__(context)
        floor = self.settings["floor"]
        if (floor or self.uniform) and floor > (least := rank_for_all(context)):
            raise RecipeError(
                f"a floor of {floor} units on every site is more than {context.budget.parameters:,} parameters pay",
                key="search.options",
                valid=f"floor: 0 to {least}",
                hint="a larger budget",
            )
        self.seen = SiteMoments(context.adapted, context.ticks, context.search.batches)

    # -- when, and how much ---------------------------------------------------------------------------------------------

    @classmethod
    def moves_moments(cls, search: SearchSection) -> bool:
        """They go through the change of basis."""
        return True

    @classmethod
    def own_ticks(cls, search: SearchSection, total_steps: int) -> list[int]:
        """The cuts. RecipeError where they do not fit, or other keys would move them."""
        settings = cls.settings_from(search.options)
        begin, end, cuts = settings["begin"], settings["end"], settings["cuts"]
        if search.warmup or search.tail:
            raise RecipeError(
                "allocator 'squeeze' has its own: options begin and end say when the first and the last cut come",
                key="search.warmup" if search.warmup else "search.tail",
                valid="0",
                hint="search.options={begin: 0.4, end: 0.7}",
            )
        shares = [begin + (end - begin) * cut / max(cuts - 1, 1) for cut in range(cuts)] if cuts > 1 else [end]
        ticks = sorted({round(share * total_steps) for share in shares})
        if begin > end or len(ticks) < cuts or not 0 < ticks[0] <= ticks[-1] < total_steps:
            raise RecipeError(
                f"{cuts} cuts from {begin:.0%} to {end:.0%} of {total_steps} steps leave some of them no step of their own",
                key="search.options",
                valid="begin below end, and fewer cuts than steps between them",
                hint="more epochs, or fewer cuts",
            )
        return ticks

    def allowed(self, step: int) -> int:
        """Everything before the first cut, the budget from the last one on; each cut leaves the same share."""
        ticks, final = self.context.ticks, self.context.budget.parameters
        done = sum(tick <= step for tick in ticks)
        if done == len(ticks):
            return final
        limit = max(int(self.everything * (final / self.everything) ** (done / len(ticks))), final)
        return max(limit, self.cost_of(self.uniform_rank(limit, least=True))) if self.uniform else limit

    @property
    def uniform(self) -> bool:
        """Whether every site gets the same rank."""
        return bool(self.settings["ranks"] == "uniform")

    def cost_of(self, rank: int) -> int:
        """What a rank costs on all sites, where a narrower one keeps its own."""
        return self.common + sum(a.parameters_at(min(rank, a.rank)) for a in self.adapters.values())

    def uniform_rank(self, limit: int, *, least: bool = False) -> int:
        """The largest rank for all sites within ``limit``; with ``least`` the smallest that costs as much or more."""
        highest = max(adapter.rank for adapter in self.adapters.values())
        fitting = max((rank for rank in range(1, highest + 1) if self.cost_of(rank) <= limit), default=1)
        return min(fitting + (least and self.cost_of(fitting) < limit), highest)

    def rate(self, step: int) -> float:
        """From zero back to one over `rewarm` of the steps after a cut."""
        length = round(self.settings["rewarm"] * self.context.total_steps)
        since = min((step - tick for tick in self.context.ticks if tick <= step), default=length)
        return min((since + 1) / (length + 1), 1.0)

    # -- at a tick -------------------------------------------------------------------------------------------------------

    def decide(self, step: int) -> Decision:
        """Re-factor, score, keep the best, and measure what that did."""
        probe = self.context.draw(PROBE, self.context.generator)
        before = self.logits(probe)
        found, scores = self.refactor()
        chosen = self.choose(scores, self.allowed(step))
        for name, adapter in self.adapters.items():
            self.land(adapter, found[name], chosen[name])
        self.context.adapted.restore({name: ON if len(units) else DROPPED for name, units in chosen.items()})
        self.hold()
        after = self.logits(probe)
        total = sum(float(values.sum()) for values in scores.values())
        kept = sum(float(values[chosen[name]].sum()) for name, values in scores.items())
        measured = {
            "score_kept": kept / total if total > 0 else 1.0,
            "logits_moved": float((after - before).square().mean().sqrt()),
            "logits_size": float(before.square().mean().sqrt()),
        }
        logger.info(
            "squeeze before step %d: %s parameters hold %.1f %% of the score; logits of %d training rows, of size %.3g, moved by %.2g",
            step,
            f"{self.context.adapted.adapter_parameters():,}",
            100 * measured["score_kept"],
            len(before),
            measured["logits_size"],
            measured["logits_moved"],
        )
        return Decision(self.name, {name: float(values.sum()) for name, values in scores.items()}, measured=measured)

    def refactor(self) -> tuple[dict[str, Balanced | None], Units]:
        """Every update in balanced form, and what each of its units is worth, by what was seen until now."""
        weighted, found, scores = self.settings["basis"] == "weighted", {}, {}
        for name, seen in self.seen.take().items():
            adapter = self.adapters[name]
            weights = weights_of(adapter, seen)
            found[name] = balanced(adapter, Seen(*map(smoothed, weights)) if weighted else None)
            scores[name] = unit_scores(adapter, found[name], weights)
        return found, scores

    def unit_scores(self) -> Units:
        """What each live unit is worth."""
        return self.refactor()[1]

    def choose(self, scores: Units, limit: int) -> dict[str, torch.Tensor]:
        """Site -> the numbers of its units that stay, in order."""
        if self.uniform:
            rank = self.uniform_rank(limit)
            return {name: best(values, rank) for name, values in scores.items()}
        worth = {}
        for name, values in scores.items():
            each = values / unit_cost(self.adapters[name])
            first = best(values, self.settings["floor"])
            worth[name] = each.index_fill(0, first, torch.finfo(each.dtype).max / 2)
        chosen = select_units(worth, self.adapters, limit - self.common, self.context.generator)
        ranks = {name: int(units.sum()) for name, units in chosen.items()}
        if self.settings["ranks"] == "shuffled":
            live = {name: len(values) for name, values in scores.items()}
            kinds = {name: (unit_cost(a), a.parameters_at(1)) for name, a in self.adapters.items()}
            ranks = shuffle_ranks(ranks, live, kinds, self.context.generator)
        return {name: best(values, ranks[name]) for name, values in scores.items()}

    @torch.no_grad()
    def land(self, adapter: Adapter, found: Balanced | None, chosen: torch.Tensor) -> None:
        """Write the balanced factors, the chosen units first, and Adam's moments in their basis; cut the others off.

        An update that is still zero has no basis to change: its first units stay.
        """
        live, rank = adapter.units.live, len(chosen)
        for name, tensor, _ in adapter.trained_tensors():
            if found is None or name not in ("A", "B"):
                continue
            of_b, axis = name == "B", 1 if name == "B" else 0
            maps = (found.mean_of_b, found.square_of_b) if of_b else (found.mean_of_a, found.square_of_a)
            written: list[tuple[torch.Tensor, torch.Tensor]] = [(tensor, found.b if of_b else found.a)]
            for moment, turned in zip(self.context.moments(tensor), maps, strict=False):
                written.append((moment, turned(moment.narrow(axis, 0, live))))
            for target, values in written:
                target.narrow(axis, 0, rank).copy_(values.index_select(axis, chosen))
                target.narrow(axis, rank, adapter.rank - rank).zero_()
        adapter.units.cut(rank)

    @torch.no_grad()
    def logits(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Those of the batches' rows, without dropout, in float64 on the CPU."""
        adapted = self.context.adapted
        with without_trace(adapted, train_mode=False, seed=0, all_on=False):
            return torch.cat([wide(self.context.logits(adapted.model, batch)) for batch in batches])

    # -- within a training step -------------------------------------------------------------------------------------------

    def before_forward(self, step: int) -> None:
        """Look at the sites, where a tick is near."""
        self.seen.before_forward(step)

    def after_backward(self, step: int) -> None:
        """Take in what was seen."""
        self.seen.after_backward(step)

    # -- what it costs, and its state -------------------------------------------------------------------------------------

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """All sites' paths until the first cut, the budget's after the last, the mean over the training."""
        settings = cls.settings_from(search.options)
        middle = (1 + cost_model.share) / 2
        begin, end = min(settings["begin"], settings["end"]), settings["end"]
        return begin + (end - begin) * middle + (1 - end) * cost_model.share, 1.0

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """Looking at some steps, re-factoring, and two passes over the probe."""
        looked = search.batches * cost_model.accumulate * LISTENING
        at_ticks = len(ticks) * (cost_model.small(looked + REFACTORING) + 2 * cost_model.forward(PROBE))
        return at_ticks + cls.choosing(ticks, cost_model)

    def state_dict(self) -> dict[str, Any]:
        """What was seen too."""
        return super().state_dict() | {"seen": self.seen.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.seen.load_state_dict(state["seen"])


def weights_of(adapter: Adapter, seen: Seen) -> Seen:
    """The diagonals C and G of the site's update; with a magnitude, G is that of the sum that it multiplies."""
    if adapter.spec.decomposition != "magnitude":
        return seen
    factor = wide(adapter.magnitude / adapter.row_norms())
    return Seen(seen.inputs, seen.gradients * factor.square())


def smoothed(diagonal: torch.Tensor) -> torch.Tensor:
    """The diagonal with a part of its mean in it, as weights: nothing counts as nothing; ones where nothing was seen."""
    mean = diagonal.mean()
    return ((1 - SMOOTHING) * diagonal / mean + SMOOTHING).sqrt() if mean > 0 else torch.ones_like(diagonal)


def balanced(adapter: Adapter, weights: Seen | None) -> Balanced | None:
    """The balanced form of the live units; None while the update is zero, or gone."""
    if not adapter.units.live:
        return None
    factors = adapter.delta.factors()
    assert factors is not None  # a plain product has them
    b, a = factors
    found = balance(b, a) if weights is None else balance(b, a, weights.gradients, weights.inputs)
    return found if found.values[0] > 0 else None


def unit_scores(adapter: Adapter, found: Balanced | None, weights: Seen) -> torch.Tensor:
    """What each live unit is worth (live,), in float64: zeros while the update is zero."""
    if found is None:
        return torch.zeros(adapter.units.live, dtype=torch.double)
    return adapter.scale**2 * (found.b.square().T @ weights.gradients) * (found.a.square() @ weights.inputs)


def unit_cost(adapter: Adapter) -> int:
    """Parameters of one unit more."""
    return adapter.parameters_at(1) if adapter.rank == 1 else adapter.parameters_at(2) - adapter.parameters_at(1)


def best(values: torch.Tensor, number: int) -> torch.Tensor:
    """The places of the ``number`` largest values, in order; of equal ones the first."""
    return values.argsort(descending=True, stable=True)[:number].sort().values


allocators.register(Squeeze)
