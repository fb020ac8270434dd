"""Diff pruning: a sparse change of all weights, found by an L0 relaxation (Guo et al. 2021, arXiv 2012.07463, section 3).

    W' = W + z * w        w: out x in, 0 at start;  z: out x in in [0, 1], hard-concrete gates, open at start

First the loss has `penalty` (1.25e-7) times the expected number of open gates added; then, at `prune_at` (0.5) of the steps, the
share `keep` (0.005) of the largest |z w| of all sites together stays, the others become 0, and what stays is trained on. The three
are settings of the update: adapter.update_options. 2 out in parameters a site train before the cut; keep out in differ from W at the
end, although the adapter's file has room for all. LoRA is low-rank and dense, this sparse and of any rank.
Merges exactly: W' = W + z * w.
Differs from the paper: no gate for groups of weights (the paper's structured variant); embeddings, norms and biases stay; the
gates' learning rate, which the authors fix at 0.1, is 2000 times that of w and follows its schedule; AdamW's
moments start anew with the second phase.
Not checked against the authors' code, which was not read: follows section 3 of the paper.
When to use it: when the change itself must be small to store or to inspect, and memory for three copies of W is there.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="diff_pruning",
        title="Diff pruning",
        summary="W + z * w, the largest 0.5 % of z * w kept",
        source="Guo et al. 2021, section 3",
        delta="sparse",
        init="nothing",
        scale="none",
        targets=("all",),
        updates=("diff_pruning",),
        lr=5e-5,
    ),
)
