"""L-LoRA: LoRA linearised around its start, to be fused with others by adding (Tang et al. 2023, arXiv 2310.04742).

    y = W x + b + s (B0 A0 + (B - B0) A0 + B0 (A - A0)) x  =  W x + b + s B A0 x        where B0 = 0

With LoRA's start, B0 = 0, the tangent in A is zero: A gets no gradient, and what is left is LoRA with its A frozen, lora_fa. So nothing
here computes a Jacobian: it is lora_fa with the authors' rank and alpha, and merges exactly.
rank * out trained parameters a site. A start that gives B values, such as pissa, has a tangent in A too: it is refused.
Differs from the authors' code in: A0 stays as it is, where weight decay would move theirs without moving the function.
When to use it: for runs of several tasks that `lorakit combine` is to add up: each layer's function is linear in B.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="l_lora",
        title="Linearised LoRA",
        summary="W x + s B A0 x: LoRA's tangent at its start, which is LoRA with frozen A",
        source="Tang et al. 2023, arXiv 2310.04742",
        trainable="B+magnitude",
        rank=16,
        alpha=32.0,
        lr=2e-3,
        tangent=True,
    ),
)
