"""COLA, chain of LoRA: a new LoRA is tuned on what the finished ones leave (Xia et al. 2024, arXiv 2401.04151).

    dW = s (B_1 A_1 + ... + B_m A_m)        m links, each tuned as a LoRA of its own, then tied into the weight

rank (in + out) parameters a site train at a time, in a final rank of m times that. Every link has a new optimiser and the whole
learning-rate schedule. What is finished is kept as factors and not merged: the pretrained weight stays, a quantised one will do, and the
result merges and is exported as one LoRA. A step computes with the whole rank m r. How many links there are is adapter.options links
(3); the rest is the update `restart` (adapter.update_options).
Not checked against the authors' code, which was not reached: follows the method section of the paper.
When to use it: where LoRA falls short of full fine-tuning, and there is time for several trainings' worth of steps.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="cola",
        title="Chain of LoRA",
        summary="LoRAs one after the other, each with a new optimiser and schedule, on top of the finished ones",
        source="Xia et al. 2024, arXiv 2401.04151",
        delta="chain",
        options=(("links", "3"),),
        updates=("restart",),
        update_options=(("reset", "new"), ("rate", "anew")),
    ),
)
