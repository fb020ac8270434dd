"""Asymmetric LoRA: a frozen A with orthonormal rows, and B trained (Zhu et al. 2024, arXiv 2402.16842).

    dW = s B A        A: rank x in, A A^T = I, random, frozen;  B: out x rank, trained from zero

rank * out parameters a site. Merges exactly. LoRA-FA with another A: B does the adapting, and A hardly matters as long as it is
no worse than random.
Differs from the authors' code in: A is uniform among such matrices, theirs are the singular vectors of a matrix of uniform numbers; with
init: principal A holds W's right singular vectors, each times its singular value, where the paper's variant takes the vectors alone and
the code takes others by mistake.
When to use it: half of LoRA's parameters at about its quality; spend what is saved on twice the rank.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="asymmetric",
        title="Asymmetric LoRA",
        summary="LoRA with frozen orthonormal A, B trained",
        source="Zhu et al. 2024, arXiv 2402.16842",
        init="orthonormal",
        trainable="B+magnitude",
        lr=2e-3,
    ),
)
