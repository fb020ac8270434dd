"""Prefix tuning through an MLP: the paper's own reparametrisation (Li and Liang 2021, arXiv 2101.00190, section 4.3).

    H = tanh(E W1 + b1);  P_k = H W_k + b_k,  P_v = H W_v + b_v        E: n x d, W1: d x h shared; W_k, W_v: h x width of each layer

n d + d h + h + 2 L width (h + 1) parameters, n the rank, d = width that of the keys, h = 512 unless adapter.options hidden says
otherwise: many more than the 2 L n width of the prefix that comes out, which the paper finds to train more stably so. Then as
prefix_tuning: tokens, not weights, which cannot be merged, and not the pretrained model at start.
Differs from PEFT's code in: the network is kept after training, where it stores what that computes; d and positions are as with
prefix_tuning; biases start at 0, there uniform.
When to use it: where prefix_tuning trains badly.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="prefix_mlp",
        title="Prefix tuning through an MLP",
        summary="[P_k, P_v] = MLP(E) in every layer; E: rank x width",
        source="Li and Liang 2021, section 4.3",
        delta="prefix_encoder",
        init="nothing",
        scale="none",
        block="prefix",
        rank=20,
        lr=3e-4,
        identity=False,
    ),
)
