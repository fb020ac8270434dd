"""LoRA-FA: LoRA with a frozen A (Zhang et al. 2023, arXiv 2308.03303).

    y = W x + b + s B A x        A: random, frozen;  B: out x rank, trained from zero

rank * out trained parameters a site; the backward pass keeps rank numbers a token instead of in. Merges exactly, as LoRA.
Differs from PEFT's code in: its optimiser of that name also preconditions the gradient of B.
When to use it: when memory is short.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora_fa",
        title="LoRA with frozen A",
        summary="LoRA that trains B only",
        source="Zhang et al. 2023",
        trainable="B+magnitude",
        lr=2e-3,
    ),
)
