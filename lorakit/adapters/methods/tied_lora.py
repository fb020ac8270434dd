"""Tied-LoRA: one A and one B for all layers, with vectors of each layer's own (Renduchintala et al. 2023, arXiv 2311.09578).

    dW = s diag(b) B diag(d) A      A: rank x in, B: out x rank shared by the sites of one role and shape; d: rank, b: out; all trained

rank (in + out) parameters a group, and rank + out a site. Merges exactly, site by site. A starts kaiming-uniform, B at 0, d and b
at 1 (the paper's u and v). This is the variant that trains everything; trainable: A+B is the one whose vectors stay 1.
A search that switches sites moves what is common to all of them too: a site that is switched on late joins with the others' B at once.
(`search.off: freeze` is refused: a frozen site would move all the same.)
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: to cut LoRA's parameters by about the number of layers.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="tied_lora",
        title="Tied-LoRA",
        summary="dW = diag(b) B diag(d) A; A, B shared by layers, all trained",
        source="Renduchintala et al. 2023, arXiv 2311.09578",
        delta="tied",
        lr=0.001,
    ),
)
