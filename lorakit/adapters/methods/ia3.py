"""(IA)3: activations rescaled by learned vectors (Liu et al. 2022, arXiv 2205.05638, section 3.3).

    k, v, and whatever is not `down`:   y = l * (W x + b)      l: out
    down, the MLP's second projection:  y = W (l * x) + b      l: in

out (or in) parameters a site; l starts at 1. Merges exactly: rows of W and b, or columns of W, times l.
Checked against PEFT's code.
When to use it: when an adapter must be tiny and the data are few; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="ia3",
        title="Infused adapter by inhibiting and amplifying inner activations",
        summary="activations times a learned vector",
        source="Liu et al. 2022, section 3.3",
        delta="rescaling",
        init="nothing",
        scale="none",
        targets=("k", "v", "down"),
        lr=0.01,
    ),
)
