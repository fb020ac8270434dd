"""AdaLoRA's adapter: a singular value form whose rank units a search gives and takes (Zhang et al. 2023, arXiv 2303.10512).

    dW = s B diag(g) A        A: rank x in and B: out x rank ~ N(0, 0.02^2), g: rank, starts at 0;  s = alpha / rank

rank (in + out) + rank parameters a site, of which `search.method=adalora` leaves the budget. s stays that of the first rank while
units go. Merges exactly. Trained without that search it is TriLoRA with another start.
Checked against the authors' code.
When to use it: with `search.method=adalora`, from about one and a half times the rank that the budget pays for.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="adalora",
        title="AdaLoRA's adapter",
        summary="dW = B diag(g) A from N(0, 0.02^2), for the search of the same name",
        source="Zhang et al. 2023, arXiv 2303.10512",
        delta="diagonal",
        init="small_gaussian",
        targets=("all",),
        rank=12,
        alpha=24.0,
        lr=1e-3,
    ),
)
