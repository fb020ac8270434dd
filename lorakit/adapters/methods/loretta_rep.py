"""LoRETTA-rep: LoRA with its factors as tensor trains (Yang et al. 2024, arXiv 2402.11417).

    dW = s B A        A: rank x in and B: out x rank, each the product of cores t x n x t', n the digits of its rows and columns;
                    s = alpha / rank

sum t n t' parameters a site, t = 5 between two cores (option `tensor_rank`) and 1 at the ends: for rank 8 on 384 x 384, where
384 has the digits 8, 8, 6, A takes 8 t + 8 t^2 + 8 t^2 + 6 t = 470 and B 430, where LoRA has 3,072 each. Merges exactly.
Differs from the authors' code in: one core of B starts at zero, so that training starts from the pretrained model (there dW is random at
the start); the digits are computed, not looked up; norms do not train, and the head is not decomposed.
When to use it: when an adapter must be several times smaller than LoRA.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="loretta_rep",
        title="Low-rank economic tensor-train adaptation of LoRA's factors",
        summary="dW = B A, A and B products of small cores",
        source="Yang et al. 2024, arXiv 2402.11417",
        delta="tensor_train",
        init="nothing",
        lr=0.005,
    ),
)
