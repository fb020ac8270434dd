"""Full fine-tuning: every parameter of the backbone, embeddings included (Devlin et al. 2019, arXiv 1810.04805, section 3.2).

    W' = W + dW        dW: out x in, and so for biases, norms and embeddings

As many parameters as the backbone has. LoRA keeps dW to a low rank; here it is free. Already merged: folding copies.
The pretrained parameters are kept beside the trained ones, so that the model can be switched back: the memory of two models.
A model in which two modules share a parameter (tied embeddings) is refused.
Not checked against the authors' code, which was not read: follows section 3.2 of the paper.
When to use it: as the reference that every adapter is measured against. Wants a low learning rate, 2e-5 to 5e-5.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="full",
        title="Full fine-tuning",
        summary="every parameter of the backbone",
        source="Devlin et al. 2019, section 3.2",
        delta="own_parameters",
        init="nothing",
        scale="none",
        block="everything",
        lr=3e-5,
    ),
)
