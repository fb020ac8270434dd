"""Prompt tuning: the embeddings of n virtual tokens in front of the text (Lester et al. 2021, arXiv 2104.08691, section 2).

    [P; E(x)]        P: n x d, d the width of the token embeddings; n is the rank

n d parameters for the whole model. adapter.options start=vocab begins at embeddings of random tokens, random at normal ones of the
same size. A fresh model is not the pretrained one: it reads a longer text. Unlike LoRA it adds tokens, not weights: it cannot be
merged, and all layers compute n tokens more.
Differs from PEFT's code in: the virtual tokens are gone before a head pools, so that an encoder's reads [CLS] and a decoder's the last
token that is no padding (there a virtual token, and the last token, padding or not); where a table gives positions the text keeps its own
(there n more, and a text of full length fails); a normal start is as large as the embeddings (there N(0, 1)).
When to use it: when one frozen model serves many tasks and each must be tiny; wants a large model and a very high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="prompt_tuning",
        title="Prompt tuning",
        summary="[P; E(x)] on the input; P: rank x embedding width",
        source="Lester et al. 2021, section 2",
        delta="prompt",
        init="nothing",
        scale="none",
        block="prompt",
        rank=20,
        lr=0.03,
        identity=False,
    ),
)
