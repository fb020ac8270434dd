"""VB-LoRA: LoRA's factors out of a shared bank of vectors (Li et al. 2024, arXiv 2405.15179).

    dW = B A        A: rank x in, B: out x rank, in pieces of l numbers: piece = sum of the k rows of the bank with the largest logits,
                    each times their softmax;  bank: h x l, one for all sites;  no alpha

h l parameters once and h rank (in + out) / l a site while training. Merges exactly. l must divide every adapted width.
dW is small but not zero at the start, as in the paper and in PEFT: a bank of zeros would get no gradient, so a fresh model is not quite
the pretrained one.
Checked against the authors' code.
Differs from PEFT's code in: h and l are 128 instead of 256, for 256 does not divide widths such as 384; one learning rate for bank and
logits, where the paper has two; all logits are saved (not the largest k alone), so training can go on.
When to use it: to study sharing across sites, or for many adapters whose largest logits alone are stored; while it trains it is hardly
smaller than LoRA, and it wants a learning rate ten times LoRA's.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="vb_lora",
        title="Vector-bank LoRA",
        summary="dW = B A, both pieced together from a shared bank of vectors",
        source="Li et al. 2024, arXiv 2405.15179",
        delta="bank",
        init="nothing",
        scale="none",
        rank=4,
        lr=0.01,
        identity=False,
    ),
)
