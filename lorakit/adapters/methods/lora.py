"""LoRA: low-rank adaptation (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    y = W x + b + s B A x        W: out x in, frozen;  A: rank x in;  B: out x rank;  s = alpha / rank

A starts kaiming-uniform, B at zero, so training starts from the pretrained model. rank (in + out) parameters a site.
Merges exactly: W' = W + s B A.
Checked against the authors' code.
When to use it: the default. Small tasks like rank 4 to 16 on all linear roles.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora",
        title="Low-rank adaptation",
        summary="W x + (alpha/r) B A x, A kaiming, B zero",
        source="Hu et al. 2021, section 4.1",
    ),
)
