"""MixLoRA: every row of text takes its own LoRA out of two pools of factors (Shen et al. 2024, arXiv 2402.15896).

    y = W x + b + s sum_j v_j u_j b_j (a_j^T x)        j = 1 ... rank;  a_j and b_j from pools of E vectors (in) and (out)

A router chooses the a_j by h, the mean of the row's tokens (padding left out; of a row in windows, each for itself), and weighs them by u;
the b_j by h and by the a_j that were chosen. The formulas are in deltas/chosen_factors.py.
E (3 in + out + rank in) parameters a site, E the option `experts` (16). Cannot be merged: the factors are others for every row.
Another method is called MixLoRA too (Li et al. 2024, arXiv 2404.15159: whole MLPs as experts, chosen by token); this is not it.
Differs from the authors' code in: a chosen factor is weighed by its score times the rank, so that routers get a gradient, where theirs in
their script's setting takes factors by their places alone and no gradient reaches a router; padding is no part of h, where theirs
takes the mean over it; dropout, where there is some, acts on what the router reads too.
When to use it: where whole texts are of different kinds or tasks, and their single tokens do not tell which.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="mixlora",
        title="Conditional mixture of LoRA",
        summary="W x + s sum_j v_j u_j b_j a_j^T x, factors chosen from two pools by each row",
        source="Shen et al. 2024, arXiv 2402.15896",
        delta="chosen_factors",
        init="nothing",
        targets=("all",),
        rank=4,
        alpha=32.0,
        lr=2e-4,
    ),
)
