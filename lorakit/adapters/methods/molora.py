"""MoLORA: many small LoRAs on all projections, softly merged for each token (Zadouri et al. 2023, arXiv 2309.05444).

    y = W x + b + s sum_e p_e B_e A_e x        p = softmax(R x);  R: E x in, A_e: rank x in, B_e: out x rank;  A, R ~ N(0, 0.02^2)

E (rank (in + out) + in) parameters a site, E the option `experts` (10). Cannot be merged: p is another for every token. The sum is linear
in the experts' updates: to merge these and apply the merged one, or to sum what they give, is the same. It is lora_moe with other usual
values and the small normal start.
Differs from the authors' code in: with `top_k` the weights of the kept experts sum to 1, theirs are those of the softmax over all; dropout,
where there is some, acts on what the router reads too.
When to use it: as lora_moe, for many kinds of rows: ten experts of rank 4.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="molora",
        title="Mixture of LoRA, softly merged",
        summary="W x + s sum_e p_e B_e A_e x on all projections, ten experts of rank 4",
        source="Zadouri et al. 2023, arXiv 2309.05444",
        delta="experts",
        init="nothing",
        targets=("all",),
        rank=4,
        lr=3e-4,
        options=(("experts", "10"), ("start", "normal")),
    ),
)
