"""LoRA+: a larger learning rate for B (Hayou et al. 2024, arXiv 2402.12354).

    lr(B) = ratio * lr(A)        ratio = 16 by default (adapter.lr_ratio)

Parameters, function and merging are LoRA's.
Differs from PEFT's code in: tensors are grouped by their role, so magnitudes, vectors and heads keep the base rate (its grouping gives
every vector B's).
When to use it: when LoRA learns slowly; B then takes steps that a common rate for both would not bear.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="lora_plus",
        title="LoRA+",
        summary="LoRA with lr(B) = 16 lr(A)",
        source="Hayou et al. 2024",
        lr_ratio=16.0,
        lr=5e-4,
    ),
)
