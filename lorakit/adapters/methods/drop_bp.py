"""DropBP: LoRA whose backward pass skips residual branches at random (Woo et al. 2024, arXiv 2402.17812).

    dW = s B A, s = alpha / rank;        in each step, each attention and MLP branch gets no gradient with probability rate (0.5)

rank (in + out) parameters a site, as LoRA; merges exactly. The forward pass is unchanged. That is the update `drop_bp`, which knows nothing
of LoRA: adapter.updates: [drop_bp] puts it on any method; adapter.update_options rate.
Differs from the authors' code in: every branch has the same rate, from the first step on; theirs has rates by each layer's sensitivity,
under a FLOPs budget, after about a tenth of the training.
When to use it: for long trainings of deep models: the backward pass gets cheaper by about the rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="drop_bp",
        title="LoRA with DropBP",
        summary="LoRA on all projections; residual branches get no gradient at random",
        source="Woo et al. 2024, arXiv 2402.17812",
        targets=("all",),
        updates=("drop_bp",),
    ),
)
