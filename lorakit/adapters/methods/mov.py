"""MoV: a mixture of (IA)3's vectors for each token (Zadouri et al. 2023, arXiv 2309.05444).

    k, v, and whatever is not `down`:   y = (sum_e p_e l_e) * (W x + b), p = softmax(R (W x + b))      l_e: out, R: E x out
    down, the MLP's second projection:  y = W ((sum_e p_e l_e) * x) + b, p = softmax(R x)              l_e: in,  R: E x in

2 E out (or 2 E in) parameters a site, E the option `experts` (10). Cannot be merged: p is another for every token. Every l starts at 1,
R ~ N(0, 0.02^2).
Differs from the authors' code in: one router reads all of a projection's output, where theirs in attention routes every head by itself;
with `top_k` the kept weights sum to 1, theirs are those of the softmax over all.
When to use it: where ia3 is too small for rows of several kinds; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="mov",
        title="Mixture of vectors",
        summary="activations times a mixture of learned vectors, p = softmax(R x) for each token",
        source="Zadouri et al. 2023, arXiv 2309.05444",
        delta="rescaling_experts",
        init="nothing",
        scale="none",
        targets=("k", "v", "down"),
        lr=0.01,
        options=(("experts", "10"),),
    ),
)
