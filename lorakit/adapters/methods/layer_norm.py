"""LayerNorm tuning: the norms' own weights and biases, and nothing else (Zhao et al. 2023, arXiv 2312.11420).

    y = (g + dg) * normed(x) + b + db        g, b: width, frozen;  dg, db: width

2 width parameters a norm (width where it has no bias). Nothing is added as LoRA does; already merged: the trained values take the
places of the pretrained ones.
Checked against PEFT's code.
When to use it: as the cheapest baseline that moves anything inside the model.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="layer_norm",
        title="LayerNorm tuning",
        summary="the norms' weights and biases",
        source="Zhao et al. 2023, arXiv 2312.11420",
        delta="own_parameters",
        init="nothing",
        scale="none",
        block="norms",
        lr=0.001,
    ),
)
