"""BitFit: the biases, and nothing else (Ben Zaken et al. 2022, arXiv 2106.10199, section 3).

    y = W x + (b + db)        W frozen, db: out

out parameters for each projection and each norm that has a bias: about 0.1 % of a BERT. LoRA adds a map; this moves constants.
Already merged: the trained biases take the places of the pretrained ones.
A model without biases, such as Llama, is refused: nothing of it could train.
Not checked against the authors' code, which was not read: follows section 3 of the paper.
When to use it: as the cheapest baseline on small data; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="bitfit",
        title="Bias-term fine-tuning",
        summary="the biases of projections and norms",
        source="Ben Zaken et al. 2022, section 3",
        delta="own_parameters",
        init="nothing",
        scale="none",
        block="biases",
        lr=0.001,
    ),
)
