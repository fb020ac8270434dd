"""P-tuning: virtual tokens in front of the text, computed by a small network (Liu et al. 2021, arXiv 2103.10385, section 3.2).

    P = relu(relu(E W1 + b1) W2 + b2) W3 + b3        E: n x d, W1: d x h, W2: h x h, W3: h x d; n is the rank

n d + 2 d h + h^2 + 2 h + d parameters; h = d unless adapter.options hidden says otherwise. The network makes the virtual tokens depend
on each other's training; what it computes is the same for every text. Not merged, and not the pretrained model at start, as with
prompt_tuning.
Differs from the paper: an MLP in place of its LSTM and MLP, as PEFT by default; all virtual tokens stand before the text.
Differs from PEFT's code in: heads and positions are as with prompt_tuning; biases start at 0, there uniform.
When to use it: where prompt_tuning trains badly.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="p_tuning",
        title="P-tuning",
        summary="[MLP(E); E(x)] on the input; E: rank x embedding width",
        source="Liu et al. 2021, section 3.2",
        delta="prompt_encoder",
        init="nothing",
        scale="none",
        block="prompt",
        rank=20,
        lr=1e-2,
        identity=False,
    ),
)
