"""GLoRA's search: a configuration for every site, evolved before the training (Chavan et al. 2023, arXiv 2306.07967, section 2.4).

    supernet      one training of all configurations: each step computes a random one
    evolution     `generations` of `population` configurations, scored on `holdout` of the training rows, which the supernet never saw
    found         the best of all, within the budget: a recipe to train, and the supernet's weights cut to what it uses

A search of its own, which no training has room for: `lorakit search RECIPE --method glora`, with `adapter.method: glora`. What it
does stands in ``workflow/glora``; this file says what it is called and what can be set.
`search.enable`, `uniform_rank` or `parameters` give the most that a configuration may have, `min_parameters` the fewest.
Cost: one training, and a pass over the held-out rows for every configuration that is tried.
Differs from the authors' code in: a candidate outside the limits is brought inside, not thrown away; of equals the one with fewer
parameters is the better; generation 0 counts as one; each step of the supernet draws once, not each forward pass.
When to use it: where the kinds of update that a site needs are not known; one training of the found recipe comes on top.
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.options import Option
from lorakit.searching.allocator import Allocator, Decision, allocators


class GLoRASearch(Allocator):
    """Says what the search is; it decides nothing during a training, and cannot be made for one."""

    name = "glora"
    title = "GLoRA's search"
    summary = "a configuration for every site by evolution on a supernet: `lorakit search`, before the training"
    source = "Chavan et al. 2023, arXiv 2306.07967"
    before_training = True
    options: ClassVar = {
        "population": Option(50, "configurations tried in each generation", low=2),
        "generations": Option(20, "generations, the random first one among them", low=1),
        "parents": Option(10, "the best configurations so far, which the next ones descend from", low=1),
        "mutation": Option(0.2, "chance that a choice of a mutant is drawn anew", above=0.0, high=1.0),
        "holdout": Option(0.1, "share of the training rows kept from the supernet, to score on", above=0.0, below=1.0),
        "min_parameters": Option(0, "the fewest parameters of a configuration; a budget gives the most", low=0),
    }

    def decide(self, step: int) -> Decision:
        """Never asked: no training has it. TypeError where somebody does."""
        raise TypeError("GLoRA's search is made before a training, by `lorakit search`, and decides nothing within one")


allocators.register(GLoRASearch)
