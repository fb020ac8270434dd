"""HeteroLoRA: at every tick the sites with the best scores are on, the others off (Zhang et al. 2024, arXiv 2406.14956).

    1. score    every site, by a zero-cost proxy on training batches
    2. weigh    what is compared: the scores as they are by default
    3. choose   best first, until the budget is spent
    4. switch   off sites leave the function and keep their values (`off: drop`), or stay without training (`off: freeze`)

A site that comes back goes on from its values and its moments in Adam. `scoring: separate` runs passes of its own with every site
on; `streaming` takes the gradients of the training steps before the tick, and passes of its own at step 0 alone.
Beyond the paper, all without effect unless asked for: scores per parameter or over the mean of the role (`per`), smoothed over ticks
(`smooth`), an edge for what is on already (`inertia`), fresh moments for what comes back (`moments`).
Differs from the authors' code in: ties come from the search's own seeded stream; scoring is without dropout, uses fresh batches each time
and leaves no trace; the budget counts parameters. `search.preset: paper` takes the authors' way in all but the ties and traces.
When to use it: where the budget is a fraction of what all sites would cost, and which of them the task needs is not known. Measured
(`preset: best`, a quarter of rank 16, fitted head, 500 rows of TREC or CR, MiniLM, rates tuned, four seeds) it was no better than rank 4
everywhere: -0.009 nats [-0.020, 0.003], and worse on CR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lorakit.adapters.options import Option
from lorakit.backbone.site import Site
from lorakit.errors import RecipeError
from lorakit.recipe.schema import SearchSection
from lorakit.searching.allocator import Allocator, Decision, Preview, SearchContext, allocators
from lorakit.searching.cost_model import CostModel
from lorakit.searching.proxy import Probe, Proxy, Scores, proxies
from lorakit.searching.scoring import without_trace
from lorakit.searching.selection import select_sites
from lorakit.searching.streaming import Streaming, steps_before


class HeteroLoRA(Allocator):
    """Switches whole sites by their scores."""

    name = "heterolora"
    title = "HeteroLoRA"
    summary = "sites on or off by a zero-cost proxy, again at every tick"
    source = "Zhang et al. 2024, arXiv 2406.14956"
    options: ClassVar = {
        "per": Option(
            "site",
            "what scores are compared by: as they are, per parameter, or over the mean of their role",
            choices=("site", "parameter", "role"),
        ),
        "smooth": Option(0.0, "share of the scores before in the new ones", low=0.0, high=0.99),
        "inertia": Option(0.0, "a site that is on counts this share more", low=0.0),
        "moments": Option("keep", "Adam's moments of a site that comes back", choices=("keep", "reset")),
    }
    by_proxy = True
    at_once = True  # what it chooses on a fresh model can be trained as it is
    steady = True  # but for the steps in which sites are watched
    sees_tokens = False

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.proxy = proxies.get(context.search.proxy)
        self.proxy_settings = self.proxy.settings_from(context.search.proxy_options)
        self.smoothed: Scores = {}  # what was compared at the last tick, before the edge
        self.streaming: Streaming | None = None
        if context.search.scoring == "streaming":
            check_streams(self.proxy)
            self.streaming = Streaming(context.adapted, context.ticks, context.search.batches)

    @classmethod
    def moves_moments(cls, search: SearchSection) -> bool:
        """Where those of what comes back begin anew."""
        return bool(cls.settings_from(search.options)["moments"] == "reset")

    # -- at a tick -----------------------------------------------------------------------------------------------------

    def decide(self, step: int) -> Decision:
        """Score, weigh, choose, switch."""
        context, adapted = self.context, self.context.adapted
        before = set(adapted.on)
        scores = self.score()
        compared = self.weighed(scores)
        chosen = select_sites(compared, adapted.sites, context.costs, context.budget, context.search, context.generator)
        adapted.switch(chosen.on, off=context.search.off)
        if self.settings["moments"] == "reset" and self.ticks_done:
            self.forget(set(chosen.on) - before)
        return Decision(self.proxy.name, scores, chosen.cut, chosen.margin)

    def preview(self) -> Preview:
        """The scores, and the sites that the budget is for."""
        context, scores = self.context, self.score_apart()
        sites = context.adapted.sites
        chosen = select_sites(
            self.weighed(scores), sites, context.costs, context.budget, context.search, context.generator
        )
        return Preview(scores, {site.name: float(site.name in chosen.on) for site in sites})

    def score(self) -> Scores:
        """By the recipe's proxy: from the gradients of the steps before the tick where there are any, else by passes of its own."""
        gradients = self.streaming.take() if self.streaming else None
        if gradients is None:
            return self.score_apart()
        assert self.proxy.of_gradients is not None  # see check_streams
        return self.proxy.of_gradients(self.context.adapted, gradients, self.proxy_settings)

    def score_apart(self) -> Scores:
        """By passes over training batches with every site on, without a trace."""
        context = self.context
        seed, batches = context.seed(), context.batches()
        with without_trace(context.adapted, train_mode=context.search.mode == "train", seed=seed):
            return self.proxy.score(
                Probe(context.adapted, batches, context.loss, context.logits, context.regression, self.proxy_settings)
            )

    def weighed(self, scores: Scores) -> Scores:
        """The scores as they are compared: per parameter or over their role's mean, smoothed, with an edge for what is on."""
        weighed = scores
        if self.settings["per"] == "parameter":
            weighed = {name: score / max(self.context.costs[name], 1) for name, score in scores.items()}
        elif self.settings["per"] == "role":
            weighed = over_mean_of_role(scores, self.context.adapted.sites)
        if self.smoothed:
            share = self.settings["smooth"]
            weighed = {name: share * self.smoothed[name] + (1 - share) * score for name, score in weighed.items()}
        self.smoothed = weighed
        on = set(self.context.adapted.on) if self.ticks_done else set()  # before the first tick nothing was chosen
        return {name: score * (1 + self.settings["inertia"] * (name in on)) for name, score in weighed.items()}

    def forget(self, sites: set[str]) -> None:
        """Adam's moments of these sites start anew."""
        for tensor in self.context.adapted.trained():
            if tensor.site in sites:
                for moment in self.context.moments(tensor.parameter):
                    moment.zero_()

    # -- within a training step, where scores are streamed -------------------------------------------------------------

    def before_forward(self, step: int) -> None:
        """Watch what is off, in the steps before a tick."""
        if self.streaming:
            self.streaming.before_forward(step)

    def after_backward(self, step: int) -> None:
        """Take the step's gradients down."""
        if self.streaming:
            self.streaming.after_backward(step)

    # -- its state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The scores so far too."""
        streaming = self.streaming.state_dict() if self.streaming else {}
        return super().state_dict() | {"smoothed": self.smoothed, "streaming": streaming}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.smoothed = state["smoothed"]
        if self.streaming:
            self.streaming.load_state_dict(state["streaming"])

    # -- what it costs: for `lorakit plan` -----------------------------------------------------------------------------

    @classmethod
    def trains(cls, search: SearchSection, cost_model: CostModel) -> tuple[float, float]:
        """The budget's share of the sites; down to the lowest that the proxy prefers."""
        reach = proxies.get(search.proxy).reach
        return cost_model.share, cost_model.lowest() if reach is None else min(reach * cost_model.share, 1.0)

    @classmethod
    def work(cls, search: SearchSection, ticks: Sequence[int], cost_model: CostModel) -> float:
        """The proxy's passes at every tick; streaming, those at step 0, and all sites to the bottom in the steps that are watched."""
        proxy = proxies.get(search.proxy)
        if search.scoring == "separate":
            return proxy.work(cost_model) * len(ticks)
        watched = len(steps_before(ticks, search.batches)) * cost_model.accumulate
        on, reach = cls.trains(search, cost_model)
        more = cost_model.batch(on, watched=1 - on) - cost_model.batch(on, reach)
        return proxy.work(cost_model) * (0 in ticks) + watched * more


def check_streams(proxy: Proxy) -> None:
    """RecipeError for a proxy that looks at more than gradients: training steps do not tell its scores."""
    if proxy.of_gradients is None:
        able = [name for name, other in proxies.items() if other.of_gradients is not None]
        raise RecipeError(
            f"proxy '{proxy.name}' needs passes of its own: training steps do not tell its scores",
            key="search.scoring",
            valid=f"separate, or one of the proxies {', '.join(able)}",
        )


def over_mean_of_role(scores: Mapping[str, float], sites: Sequence[Site]) -> Scores:
    """Each score over the mean of all sites of its role (q, v, res1, ...); over 1 where that is zero."""
    roles: dict[str, list[float]] = {}
    for site in sites:
        roles.setdefault(site.role, []).append(scores[site.name])
    means = {role: sum(values) / len(values) or 1.0 for role, values in roles.items()}
    return {site.name: scores[site.name] / means[site.role] for site in sites}


allocators.register(HeteroLoRA)
