"""Dynamic DoRA's adapter: a product of three factors whose rank units a search takes away (Mao et al. 2024, arXiv 2405.17357).

    dW = s B diag(g) A        A: rank x in and B: out x rank kaiming-uniform with a = 0, g: rank, starts at 0;  s = alpha / rank

rank (in + out) + rank parameters a site, of which `search.method=dynamic_dora` leaves the budget. s stays that of the first rank while
units go. Merges exactly. Trained without that search it is TriLoRA with a wider start. Not weight-decomposed DoRA, which is `dora`.
Checked against the authors' code.
When to use it: with `search.method=dynamic_dora`, from about one and a half times the rank that the budget pays for.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="dynamic_dora",
        title="Dynamic DoRA's adapter",
        summary="dW = B diag(g) A, a wide start and g = 0, for the search of the same name",
        source="Mao et al. 2024, arXiv 2405.17357",
        delta="diagonal",
        init="he_uniform",
        targets=("all",),
        rank=12,
        alpha=8.0,
        lr=1e-3,
    ),
)
