"""Bottleneck adapters behind both halves of a layer (Houlsby et al. 2019, arXiv 1902.00751, section 2.1).

    y' = y + U g(D y + b_down) + b_up        y: output of `o` and of `down`;  D: m x out, U: out x m, b_down: m, b_up: out;
                                             m is the rank

2 m out + out + m parameters a site, two sites a layer. Cannot be merged: a bottleneck is not linear, so it costs time at inference.
g is the option `activation`: gelu, relu or silu.
Differs from the authors' code in: U starts at zero, where theirs has a deviation of 0.001 (0.01 in the paper), so that a fresh model is
the pretrained one exactly, and D with one of 0.01, theirs 0.001; it sits on the projection's output before the block's dropout, theirs
after it; the norms, which theirs trains too, stay frozen.
When to use it: as the classic baseline, when parameters and time at inference are not scarce.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="houlsby",
        title="Bottleneck adapters after attention and MLP",
        summary="y + U g(D y + b_down) + b_up behind o and down",
        source="Houlsby et al. 2019, section 2.1",
        delta="bottleneck",
        init="nothing",
        scale="none",
        targets=("o", "down"),
        rank=64,
        lr=0.001,
    ),
)
