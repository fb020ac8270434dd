"""LongLoRA: LoRA for rows that are longer than a model was pretrained on (Chen et al. 2024, arXiv 2309.12307, sections 3.2 and 3.3).

    dW = s B A, s = alpha / rank, on q, k, v and o;        norms and token embeddings train in full;        S2-Attn while training

rank (in + out) parameters a site, those of the norms, and the whole table of embeddings: vocabulary times width, mostly more than all
else together; the paper finds that LoRA needs it for longer contexts (adapter.in_full: [norms] leaves it frozen). Merges exactly.
S2-Attn is the update `shifted_attention`: adapter.update_options group. Evaluation has the full attention. Rotary positions beyond
the pretrained ones are interpolated by model.rope_scaling: auto, which is no part of the method here, since the model is loaded so.
Differs from the authors' code in: what the card of shifted_attention says; they train with the next token as target, this task's rows
here; the usual learning rate, 1e-3, is ours: at 1e-4 nothing was learnt in 250 steps.
When to use it: for long documents under a decoder, with training.gradient_checkpointing.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="longlora",
        title="LongLoRA",
        summary="LoRA on attention, with norms and embeddings in full; shifted sparse attention while it trains",
        source="Chen et al. 2024, arXiv 2309.12307, sections 3.2 and 3.3",
        targets=("q", "k", "v", "o"),
        in_full=("norms", "embeddings"),
        updates=("shifted_attention",),
        lr=1e-3,
    ),
)
