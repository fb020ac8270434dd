"""Training in one random subspace of all adapted weights, to measure the intrinsic dimension (Li et al. 2018, arXiv 1804.08838;
Aghajanyan et al. 2020, arXiv 2012.13255).

    dW = lambda P z, laid out as out x in        P: out in x (d - m), Fastfood, random, the matrix's own, frozen;
                                                 z: d - m, one for all matrices, 0 at start;  lambda: one of m, a layer's, 1 at start

d parameters in all, whatever the model: `rank` is d, and m the number of layers (SAID). With the option `per_layer: false` there are
no scalars (DID), m = 0. The intrinsic dimension of a task is the least d that reaches 90 % of what training in full does. Merges exactly.
The head trains in full beside. It spares parameters alone: a step costs more than full training's, and P takes 9 bytes for each number of
the adapted weights, so that a quantised base saves little.
Differs from the authors' code in: projections alone, where theirs moves embeddings, norms, biases and the head too; a scalar a layer, as
in the paper, instead of one a tensor; blocks as long as z, several below each other, instead of one as long as the tensor. That of 2020
was read as others pass it on, that of 2018 was not.
When to use it: to learn how many directions a task needs, or for the smallest adapter there is; not to save time or memory; wants a high
learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="intrinsic",
        title="Intrinsic dimension: one random subspace",
        summary="dW = lambda P z; P random, z shared by all weights, lambda by a layer's",
        source="Li et al. 2018, arXiv 1804.08838; Aghajanyan et al. 2020, section 3",
        delta="subspace",
        init="nothing",
        scale="none",
        targets=("all",),
        rank=256,
        lr=0.03,
    ),
)
