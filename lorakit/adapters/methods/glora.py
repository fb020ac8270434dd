"""GLoRA: generalised LoRA (Chavan et al. 2023, arXiv 2306.07967, section 2).

    W' = W + W o A + B              A, B: out x in     lora (Xd Xu), vector (a number a row), scalar or none
    b' = b + b o D + E + W C        C: in              lora, vector or none         D, E: out     vector, scalar or none

A = lora costs rank (out + in), as B; C = lora rank (in + 1); a vector out (C: in); a scalar 1. All of them, which is the default:
2 rank (out + in) + rank (in + 1) + 2 out parameters a site. Xd, D and E start at zero. Merges exactly, W C with the W from before merging.
Where a layer has no bias, C, D and E have nothing to merge into and are off, as in PEFT: A and B alone train.
`lorakit search --method glora` finds a configuration for each layer: a supernet is trained, then evolved on held-out training rows.
Differs from LoRA: the elements of W are scaled too, the bias moves, and there is no alpha.
Differs from the authors' code in: Xu starts Kaiming-uniform (as in their fork of PEFT, and PEFT), not Xavier; a fixed configuration keeps
no storage that it does not use; where a layer has no bias C, D and E are off, where theirs give it one.
Differs from PEFT's code in: A and B, D and E are set one by one; D and E are vectors by default, scalars there.
When to use it: when there is time for a search, or the bias and the scale of W matter; at the same rank it costs twice what LoRA does.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="glora",
        title="Generalised LoRA",
        summary="W' = W + W o A + B, b' = b + b o D + E + W C",
        source="Chavan et al. 2023, section 2",
        delta="glora",
        scale="none",
        targets=("all",),
        rank=4,
        lr=1e-3,
    ),
)
