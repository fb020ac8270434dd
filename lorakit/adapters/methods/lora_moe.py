"""LoRA-MoE: several LoRAs a site, mixed by a softmax over each token (LoRAMoE: Dou et al. 2024, arXiv 2312.09979).

    y = W x + b + s sum_e p_e B_e A_e x        p = softmax(R x);  R: E x in, A_e: rank x in, B_e: out x rank

E (rank (in + out) + in) parameters a site, E the option `experts` (8). Cannot be merged: p is another for every token. With the option
`top_k` a token is computed by its most probable experts alone, weighed by a softmax over these. adapter.updates: [load_balance] keeps
experts from being left without tokens. adapter.experts: [RUN, RUN, ...] takes the adapters of finished runs for experts: these then stay as
they are, and E in parameters a site train.
Differs from the authors' code in: it sits on q and v unless adapter.targets says otherwise, theirs on the MLP; dropout, where there is
some, acts on what the router reads too; their balance term for rows of two known kinds is not there.
When to use it: on rows of several kinds or tasks that one LoRA of the same size would have to average over.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora_moe",
        title="Mixture of LoRA experts",
        summary="W x + s sum_e p_e B_e A_e x, p = softmax(R x) for each token",
        source="Dou et al. 2024, arXiv 2312.09979",
        delta="experts",
        init="nothing",
        rank=4,
        alpha=32.0,
        lr=2e-4,
        options=(("experts", "8"),),
    ),
)
