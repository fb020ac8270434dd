"""rsLoRA: rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732).

    y = W x + b + s B A x        s = alpha / sqrt(rank)

All else is LoRA, parameters and merging included. With alpha / rank the update's gradient shrinks as the rank grows; with the
square root it does not.
Checked against PEFT's code.
When to use it: at high ranks (32 and above), or when one learning rate should serve many ranks.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="rslora",
        title="Rank-stabilised LoRA",
        summary="LoRA with scale alpha/sqrt(r)",
        source="Kalajdzievski 2023",
        scale="rslora",
    ),
)
