"""LoRAPrune: the frozen model is pruned while LoRA trains in it, by LoRA's own gradients (Zhang et al. 2023, arXiv 2305.18403).

    W' = diag(kept) (W + s B A)        kept closes channels of the MLPs, half of them in the end, and heads; s = alpha / rank

rank (in + out) parameters a site train; of every MLP whole channels go, in all layers equally many, so that `lorakit merge` writes a plain
Hugging Face checkpoint of a smaller `intermediate_size`, with no trace of lorakit in it. Until then they are closed by masks: the run gives
the logits that the smaller model gives, and costs a little more than a LoRA. The pruning is the update `prune_channels` (`lorakit show
prune_channels`), its settings adapter.update_options share, heads (0), begin, settle, every and beta. PEFT has no form for the masks.
Differs from the authors' code in: heads of attention stay unless asked for; all layers give as much, theirs not the first
tenth and the last one; the result is folded and cut to a plain checkpoint, theirs is a LoRA whose base is cut each time it is loaded.
When to use it: where the model that is deployed should be smaller and faster than the pretrained one.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="loraprune",
        title="LoRAPrune",
        summary="LoRA that closes channels of the frozen MLPs; merges into a smaller model",
        source="Zhang et al. 2023, arXiv 2305.18403",
        delta="masked",
        targets=("all",),
        updates=("prune_channels",),
    ),
)
