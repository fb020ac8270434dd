"""MELoRA: several small LoRAs side by side (Ren et al. 2024, arXiv 2402.17263).

    dW = s blockdiag(B_1 A_1, ..., B_n A_n)        A_i: rank x in/n, B_i: out/n x rank;  s = alpha / rank;  n: option `minis`

rank (in + out) parameters a site for an update of rank n rank: LoRA reaches that rank with n times as many. n must divide every adapted
width. Merges exactly, in W's own order of inputs and outputs.
Differs from the authors' code in: the A_i are drawn as one matrix, so U(+-1/sqrt(in)) where a small LoRA alone would have 1/sqrt(in/n);
rank and alpha are the same for all of them. Its merging is broken, this one is exact.
When to use it: where LoRA wants a higher rank than its parameters allow.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="melora",
        title="Mini-ensemble low-rank adapters",
        summary="dW = blockdiag(B_i A_i)",
        source="Ren et al. 2024, arXiv 2402.17263",
        delta="block_diagonal",
        rank=4,
    ),
)
