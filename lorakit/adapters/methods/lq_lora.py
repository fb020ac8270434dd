"""LQ-LoRA: LoRA over matrices that get few bits or more, as the loss minds them (Guo et al. 2023, arXiv 2311.12023, sections 3.1 to 3.3).

    W' = Q + s B A        s B A and Q = round(W - s B A) by turns, weighted by the Fisher information F of training rows
    bits and group of each matrix: an integer programme, least sum of |sqrt(F) (W - Q)|^2 within `model.quantization_bits` a number

rank (in + out) parameters a site, as LoRA. Its parts: init `lq_fisher` with `model.quantization: mixed`; another quantisation gives the
start alone, at one precision. The run keeps Q: as many bits a number as it may have, 2.75 by default. A fresh model is not the
pretrained one. Merges: Q + s B A is dense.
Differs from the authors' code in: integers in groups for their normal floats, fewer configurations, errors of the programme without the
low-rank part, the turn that is kept, and 5 turns at most by default for their 100.
When to use it: where a base is to take less than 4 bits a number.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lq_lora",
        title="Low-rank plus quantised matrix decomposition",
        summary="LoRA from a Fisher-weighted split of W, over matrices of 2 to 8 bits under one budget",
        source="Guo et al. 2023, sections 3.1 to 3.3",
        init="lq_fisher",
        targets=("all",),
        rank=64,
        alpha=16.0,
        lr=5e-4,
        identity=False,
    ),
)
