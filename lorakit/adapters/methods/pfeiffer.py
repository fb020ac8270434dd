"""Bottleneck adapters behind the MLP alone (Pfeiffer et al. 2021, arXiv 2005.00247).

    y' = y + U g(D y + b_down) + b_up        y: output of `down`;  D: m x out, U: out x m, b_down: m, b_up: out;
                                             m is the rank

2 m out + out + m parameters a site, one site a layer: half of `houlsby`. Cannot be merged: a bottleneck is not linear.
From the paper: the place, behind the MLP only. All else is as in `houlsby`, zero start and the place before the block's dropout
included, but for the usual values here: a rank of 48, and relu for g (option `activation`: gelu, relu or silu).
Not checked against the authors' code, which was not read: follows the method section of the paper.
When to use it: where houlsby is too large.
"""

from lorakit.adapters.method import Method, methods

methods.register(
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
