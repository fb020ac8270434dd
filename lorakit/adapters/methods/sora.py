"""SoRA's adapter: LoRA with a gate for each rank, which a search presses shut (Ding et al. 2023, arXiv 2311.11696).

    dW = s B diag(g) A        A: rank x in as LoRA's, g: rank ~ N(0, 1), B: out x rank, starts at 0;  s = alpha / rank

rank (in + out) + rank parameters a site, of which `search.method=sora` leaves the budget or less. Merges exactly. Trained without that
search it is LoRA whose ranks start with different weights.
Differs from the authors' code in: the norms stay frozen, which their script trains.
When to use it: with `search.method=sora`.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="sora",
        title="SoRA's adapter",
        summary="dW = B diag(g) A, B = 0 and g ~ N(0, 1) at start, for the search of the same name",
        source="Ding et al. 2023, arXiv 2311.11696",
        delta="gated",
        targets=("all",),
        lr=8e-4,
    ),
)
