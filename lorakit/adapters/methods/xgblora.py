"""XGBLoRA: gradient boosting with LoRAs of rank 1 in random layers (Zhang et al. 2024, arXiv 2410.19694).

    dW = s (b_1 a_1 + ... + b_m a_m)        each booster trained in layers of its own, on top of the finished ones

in + out parameters a site train at a time, at rank 1, in half of the layers, drawn anew for every booster; each starts from A gaussian,
B = 0 and a new optimiser. What is finished is kept as factors and not merged: the pretrained weight stays, and the result merges and is
exported as one LoRA. A step computes with the whole rank m. How many boosters there are is adapter.options links (8); layers and the
rest are the update `restart` (adapter.update_options). Both numbers, and the usual learning rate, 4e-3, are ours: the paper sets them
by task. At 5e-4 nothing was learnt in 250 steps.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: where as little as possible should train at once.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="xgblora",
        title="Extreme gradient boosting LoRA",
        summary="LoRAs of rank 1 one after the other, each in random layers, on top of the finished ones",
        source="Zhang et al. 2024, arXiv 2410.19694",
        delta="chain",
        init="small_gaussian",
        options=(("links", "8"),),
        rank=1,
        alpha=2.0,
        updates=("restart",),
        update_options=(("reset", "new"), ("rate", "steady"), ("layers", "0.5")),
        lr=4e-3,
    ),
)
