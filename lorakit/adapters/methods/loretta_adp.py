"""LoRETTA-adp: bottleneck adapters of tensor trains (Yang et al. 2024, arXiv 2402.11417).

    y' = y + U g(D y + b_down) + b_up        y: output of `o` and of `down`;  D: m x out and U: out x m, each the product of
                                             cores t x n x t', n the digits of m and out; m is the rank

sum t n t' + m + out parameters a site, t = 5 between two cores (option `tensor_rank`) and 1 at the ends. Cannot be merged: a bottleneck
is not linear.
Differs from the authors' code in: one core of U starts at zero, so that training starts from the pretrained model; the digits are
computed, not looked up; norms do not train, and the head is not decomposed. It sits before the block's dropout, as `houlsby` does.
When to use it: where `houlsby` is good but too large; the authors prefer it to loretta_rep.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="loretta_adp",
        title="Low-rank economic tensor-train bottleneck adapters",
        summary="y + U g(D y + b_down) + b_up, D and U products of small cores",
        source="Yang et al. 2024, arXiv 2402.11417",
        delta="tensor_train_bottleneck",
        init="nothing",
        scale="none",
        targets=("o", "down"),
        rank=64,
        lr=0.003,
    ),
)
