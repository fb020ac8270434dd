"""Delta-LoRA: LoRA whose frozen weight moves along (Zi et al. 2023, arXiv 2309.02411).

    y = W x + b + s B A x,    after every step t >= K:   W <- W + lambda s (B_t+1 A_t+1 - B_t A_t)
      = W_0 x + b + s (B A + lambda (B A - B_K A_K)) x    with the second term constant to A and B

rank (in + out) parameters a site, as LoRA; W gets no gradient and no moments. The pushes sum up to the second line, so the pretrained
weight stays as it is and the result is exactly a LoRA of rank 2 r: it merges, and PEFT reads what is exported. A step computes with
rank 2 r from the start. The pushes are the update `delta_lora` (adapter.update_options push, 2, and start, a tenth of the steps), which
allows no dropout.
Not checked against the authors' code, which was not reached: follows the method section of the paper. A third party's was read.
When to use it: where LoRA at its rank and rate learns too little; a push of 2 makes a step of B A count about threefold.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="delta_lora",
        title="Delta-LoRA",
        summary="LoRA; every change of s B A moves W too, lambda times",
        source="Zi et al. 2023, arXiv 2309.02411",
        delta="pushed",
        updates=("delta_lora",),
    ),
)
