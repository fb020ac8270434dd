"""HeteroLoRA: at every tick the sites with the best scores are on, the others off (Zhang et al. 2024, arXiv 2406.14956).

    1. every site on; score all with a zero-cost proxy on training batches     2. best first until the budget is spent
    3. switch: off sites leave the function and keep their values (`off: drop`), or stay without training (`off: freeze`)

A site that comes back goes on from its values and its optimiser moments.
Differs from the authors' code: ties come from the search's own seeded stream, scoring is without dropout, uses fresh batches each
time and leaves no trace, and the budget counts parameters. `search.preset: paper` takes the authors' way in all but the ties and traces.
"""

from __future__ import annotations

import time

import torch

from lorakit import registry
from lorakit.search.allocate import Allocation, allocate
from lorakit.search.policy import Policy, SearchContext
from lorakit.search.scoring import Probe, Proxy, without_trace
from lorakit.search.timeline import Tick, churn


class HeteroLoRA(Policy):
    """Switches whole sites by their scores."""

    def __init__(self, context: SearchContext):
        super().__init__(context)
        self.proxy: Proxy = registry.proxies.get(context.search.proxy)

    def tick(self, step: int, epoch: float) -> Tick:
        """Score every site, choose, switch."""
        started = time.perf_counter()
        context, before = self.context, self.context.adapted.on
        scores = self.score()
        allocation = self.choose(scores)
        context.adapted.switch(allocation.on, off=context.search.off)
        self.ticks += 1
        return Tick(
            tick=self.ticks - 1,
            step=step,
            epoch=epoch,
            proxy=context.search.proxy,
            scores=scores,
            on=allocation.on,
            cut=allocation.cut,
            margin=allocation.margin,
            churn=churn(before, allocation.on) if self.ticks > 1 else 0.0,
            parameters=context.adapted.adapter_parameters(),
            budget=context.budget.parameters,
            seconds=time.perf_counter() - started,
        )

    def score(self) -> dict[str, float]:
        """Site -> score by the recipe's proxy, on training rows, without a trace."""
        context = self.context
        seed = int(torch.randint(2**31, (), generator=context.generator))
        batches = context.draw(context.search.batches, context.generator)
        with without_trace(context.adapted, train_mode=context.search.mode == "train", seed=seed):
            probe = Probe(context.adapted, batches, context.loss, context.logits, context.regression, context.search)
            return self.proxy.score(probe)

    def choose(self, scores: dict[str, float]) -> Allocation:
        """The best sites within the budget."""
        context = self.context
        return allocate(scores, context.adapted.sites, context.costs, context.budget, context.search, context.generator)


registry.policies.register("heterolora", HeteroLoRA)
