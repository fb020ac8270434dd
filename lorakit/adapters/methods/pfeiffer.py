"""Bottleneck adapters behind the MLP alone (Pfeiffer et al. 2021, arXiv 2005.00247).

    y' = y + U g(D y + b_down) + b_up        y: output of `down`;  D: m x out, U: out x m, b_down: m, b_up: out;
                                             m is the rank

2 m out + out + m parameters a site, one site a layer: half of `houlsby`. Cannot be merged: a bottleneck is not linear.
Differs from the paper: U starts at zero, so that training starts from the pretrained model exactly; it sits on the projection's output,
before the block's dropout, residual and norm, and reads that output itself. g is the option `activation`: gelu, relu or silu.
When to use it: where houlsby is too large; the paper's search over places found this one about as good.
"""

from lorakit.adapters.spec import Method
from lorakit.registry import methods

methods.register(
    "pfeiffer",
    Method(
        name="pfeiffer",
        title="Bottleneck adapters after the MLP",
        summary="y + U g(D y + b_down) + b_up behind down",
        source="Pfeiffer et al. 2021, arXiv 2005.00247",
        delta="bottleneck",
        init="nothing",
        scale="none",
        targets=("down",),
        rank=48,
        lr=0.001,
        options=(("activation", "relu"),),
    ),
)
