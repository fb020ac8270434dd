"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353, section 4.1).

    W' = m * (W + s B A) / |W + s B A|        m: out, starts at |W|; the norm is taken a row and is not differentiated

rank (in + out) + out parameters a site. Merges exactly.
Differs from PEFT's code in: dropout acts on the low-rank branch alone, where theirs also drops the base path's input before rescaling it.
When to use it: where LoRA at low rank falls behind full fine-tuning; costs a little more time a step.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="dora",
        title="Weight-decomposed LoRA",
        summary="m (W + s B A) / |W + s B A|, magnitude m trained",
        source="Liu et al. 2024, section 4.1",
        decomposition="magnitude",
    ),
)
