"""QA-LoRA: LoRA of inputs that are pooled as the frozen weights are quantised (Xu et al. 2023, arXiv 2309.14717, section 3.3).

    y = W x + b + s B A pool(x)        W: int4, frozen;  pool: means over the groups of W's inputs;  A: rank x in/g;  s = alpha / rank

rank (in/g + out) parameters a site. Over int4 alone, in groups of as many (model.quantization_group, adapter.options.group: 32).
Merges exactly, in 4 bits: zero + (s/g) B A are the new zero points, integers and scales stay. `lorakit merge` writes that as a plain
checkpoint, which lorakit loads in 4 bits again, and transformers dense. A rank above in/g adds nothing: the update has no higher one.
Differs from the authors' code in: A starts kaiming-uniform, theirs Xavier-uniform. Means are theirs; the paper's sums are g times larger.
Differs from PEFT's code in: its pooled inputs are in/g times larger, and it does not merge.
When to use it: where what is deployed is to have 4 bits, after the training too; wants a learning rate some four times LoRA's, as means
of 32 inputs are small.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="qa_lora",
        title="Quantisation-aware LoRA",
        summary="W x + (alpha/r) B A pool(x) over int4; merges into zero points alone",
        source="Xu et al. 2023, section 3.3",
        delta="pooled",
        lr=2e-3,
    ),
)
