"""ReLoRA: low-rank updates one after the other, which sum up to one of a higher rank (Lialin et al. 2023, arXiv 2307.05695).

    dW = s (B_1 A_1 + ... + B_m A_m)        m links, each trained from A kaiming and B = 0 on top of those that are finished

rank (in + out) parameters a site train at a time, in a final rank of m times that; what is finished is kept as factors and not merged, so
the pretrained weight stays, a quantised one will do, and the result merges and is exported as one LoRA. A step computes with the whole
rank m r. At a restart the optimiser forgets 99 % of its moments of A and B, and the rate is warmed up again. How many links there are is
adapter.options links (4); the rest is the update `restart` (adapter.update_options).
Differs from the authors' code in: no full-rank training first; a link is a share of the training, theirs 1,000 to 5,000 steps; by the
paper moments go by magnitude, 0.99, the code's default is at random, 0.999; both moments of an entry go together, and step counts too; the
schedule is the recipe's, theirs a cosine to a tenth.
When to use it: for long trainings whose update should have a higher rank than is trained at once.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="relora",
        title="ReLoRA",
        summary="LoRAs one after the other, each on top of the finished ones; moments pruned, rate warmed up again",
        source="Lialin et al. 2023, arXiv 2307.05695",
        delta="chain",
        updates=("restart",),
    ),
)
