"""LoftQ: LoRA that starts as what 4 bits lose of W (Li et al. 2023, arXiv 2310.08659, section 3).

    Q = round(W - s B A),  s B A = the first r singular triplets of W - Q, by turns;    W' = Q + s B A

rank (in + out) parameters a site, as LoRA. Needs `model.quantization`; alternates `adapter.init_steps` times. Q is not W rounded, so
the run keeps it: 4.5 bits a number in nf4, 4.13 with double quantisation. A fresh model is not the pretrained one, but nearer to it
than W rounded is. Merges: Q + s B A is dense.
Differs from PEFT's code in: the scale s is divided out of A and B, which PEFT leaves in.
When to use it: where a base in 4 bits is to start nearer to the pretrained model, at ranks of 16 and more.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="loftq",
        title="LoRA-fine-tuning-aware quantization",
        summary="LoRA from what rounding W loses, over a base rounded without it",
        source="Li et al. 2023, section 3",
        init="loftq",
        targets=("all",),
        rank=16,
        alpha=16.0,
        lr=5e-4,
        identity=False,
    ),
)
