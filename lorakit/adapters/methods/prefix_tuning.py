"""Prefix tuning: keys and values of virtual tokens in every attention layer (Li and Liang 2021, arXiv 2101.00190, section 4).

    Attn(q, [P_k; K], [P_v; V])        P_k: n x key width, P_v: n x value width of each layer; n is the rank

2 L n width parameters for L layers; the width is that of the keys, fewer heads than the model's where several queries share a key.
Trained as they are, without the MLP in front (prefix_mlp): the variant that P-tuning v2 (Liu et al. 2022, arXiv 2110.07602) uses for
understanding tasks. Attention weighs the text against the virtual tokens, so a fresh model is not the pretrained one.
Unlike LoRA it adds tokens, not weights: it cannot be merged, and every layer attends to n tokens more.
Differs from PEFT's code in: the text keeps its own positions, where it (as the authors) counts n positions more (a text of full length
still fits); a prefix is put in front of the states, not into a cache, so that encoders and heads that take no cache have one too;
adapter.options std=0.02 starts it small, 1 is its own and P-tuning v2's. DeBERTa computes its attention itself and is refused.
When to use it: when one frozen model serves many tasks in one batch; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="prefix_tuning",
        title="Prefix tuning",
        summary="Attn(q, [P_k; K], [P_v; V]) in every layer; P_k, P_v: rank x width",
        source="Li and Liang 2021, section 4; Liu et al. 2022 (P-tuning v2)",
        delta="prefix",
        init="nothing",
        scale="none",
        block="prefix",
        rank=20,
        lr=0.01,
        identity=False,
    ),
)
