"""AutoLoRA's adapter: LoRA whose rank units have learnt shares (Zhang et al. 2024, arXiv 2403.09113).

    dW = s B diag(softmax(alpha)) A        A: rank x in, B: out x rank, alpha: rank, starts at 1;  s = alpha_LoRA / rank

A starts kaiming-uniform and B at zero. A and B train, rank (in + out) parameters a site; alpha is learnt by `search.method=autolora`
and not by the optimiser: without that search this is LoRA at a scale of s / rank. Merges exactly.
Checked against the authors' code.
When to use it: with `search.method=autolora`, to learn which rank units of which sites are worth keeping.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="autolora",
        title="AutoLoRA's adapter",
        summary="dW = B diag(softmax(alpha)) A, alpha learnt by the search of the same name",
        source="Zhang et al. 2024, arXiv 2403.09113",
        delta="selection",
        trainable="A+B",
        lr=2e-3,
    ),
)
