"""SVDiff: shifts of the singular values, which stay positive (Han et al. 2023, arXiv 2303.11305, section 3).

    W = U diag(s) V^T,  W' = U diag(max(0, s + d)) V^T        U: out x k, V: in x k, frozen;  d: k = min(in, out), 0 at start

min(in, out) parameters a site, at any rank. Differs from SAM-PARSER by the max, and from LoRA as that does: no new directions.
A value that was pushed below zero stays at zero: its shift gets no gradient any more.
Merges exactly: W' = W + U diag(max(0, s + d) - s) V^T. The sum is also what is computed, so that W is not rounded by its
decomposition.
Differs from the paper: it tunes diffusion models and mixes its data, which is no part of the adapter.
Not checked against the authors' code, which was not read: follows section 3 of the paper.
When to use it: as SAM-PARSER, where a sign change of a direction is to be ruled out.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="svdiff",
        title="Compact parameter space for diffusion fine-tuning",
        summary="U diag(relu(s + d)) V^T, the shifts d trained",
        source="Han et al. 2023, section 3",
        delta="singular_values",
        init="nothing",
        scale="none",
        options=(("link", "relu"),),
        lr=0.005,
    ),
)
