"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv 2310.11454, section 3).

    dW = diag(b) B diag(d) A        A: rank x in, B: out x rank frozen, random, the same for all sites; d: rank, starts at 0.1;
                                    b: out, starts at 0

rank + out parameters a site. Merges exactly. Sites of different widths take the first columns of A and rows of B. There is no alpha.
Checked against PEFT's code.
When to use it: when an adapter must be tiny; wants a high rank (256 and up) and a learning rate ten times LoRA's.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="vera",
        title="Vector-based random matrix adaptation",
        summary="dW = diag(b) B diag(d) A; A, B random, frozen, shared",
        source="Kopiczko et al. 2024, section 3",
        delta="shared_vectors",
        init="nothing",
        scale="none",
        trainable="vector",
        rank=256,
        lr=0.01,
    ),
)
