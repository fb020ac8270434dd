"""NOLA: LoRA's factors as mixtures of random matrices (Koohpayegani et al. 2024, arXiv 2310.02556).

    dW = s B A,  A = A_0 + sum_i a_i A_i,  B = sum_j b_j B_j
    A_0, A_i: rank x in, B_j: out x rank, frozen, random from the site's name; a, b: k, trained from 0;  s = alpha / rank

2 k parameters a site (option `bases`), whatever rank and widths are. Merges exactly.
Differs from the authors' code in: 64 bases instead of 1024, as many of A as of B; they are kept in memory instead of being drawn anew in
every backward pass. Both are divided by sqrt(k), as in the authors' code for language.
When to use it: when an adapter must be tiny and its size must not grow with the model; wants a learning rate ten to twenty times LoRA's.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="nola",
        title="Networks as linear combinations of low-rank random bases",
        summary="dW = (sum b_j B_j) (A_0 + sum a_i A_i); a, b trained",
        source="Koohpayegani et al. 2024, arXiv 2310.02556",
        delta="basis",
        init="nothing",
        alpha=8.0,
        lr=0.01,
    ),
)
