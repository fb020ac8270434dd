"""HiddenKey: LoRA under the dropout that suits it (Wang et al. 2024, arXiv 2403.00812).

    dW = s B A, s = alpha / rank, on k and v;        loss = [CE1 + CE2 + beta (KL(p1 || p2) + KL(p2 || p1)) / 2] / 2

rank (in + out) parameters a site, as LoRA: nothing is added to the model. While training, whole columns of the attention logits are
hidden (DropKey), units of the FFN's hidden layer are dropped (HiddenCut), and two such passes must agree. That is the update
`hidden_key`: adapter.update_options keys and hidden (0.1), beta (1; 0 saves the second pass), on any other method by
adapter.updates: [hidden_key]. Merges exactly. Differs from the paper: the loss is half of its loss, beta the same; for a number as
target the KL is that of normal distributions of variance 1; a query that would lose every key keeps them all.
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: on small data sets, where a LoRA overfits. A step costs about two of LoRA's.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="hidden_key",
        title="HiddenKey",
        summary="LoRA on k and v; DropKey, HiddenCut and a KL between two passes while it trains",
        source="Wang et al. 2024, arXiv 2403.00812",
        targets=("k", "v"),
        updates=("hidden_key",),
    ),
)
