"""SAM-PARSER: the singular values of each weight, retrained (Peng et al. 2023, arXiv 2308.14604).

    W = U diag(s) V^T,  W' = U diag(s') V^T        U: out x k, V: in x k, frozen;  s' = s + d, d: k = min(in, out)

min(in, out) parameters a site, at any rank. LoRA adds new directions; here W's own grow and shrink, and may change sign.
Merges exactly: W' = W + U diag(d) V^T. The sum is also what is computed, so that W is not rounded by its decomposition.
Differs from the paper: it treats convolutions as matrices; here it sits on projections. d, not s', is stored, and alpha
has no part.
Not checked against the authors' code, which was not read: follows the method section of the paper.
When to use it: when an adapter must be tiny and stay within what the model has already; wants a high learning rate.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="sam_parser",
        title="Parameter space reconstruction for the segment anything model",
        summary="U diag(s') V^T, the singular values trained",
        source="Peng et al. 2023, arXiv 2308.14604",
        delta="singular_values",
        init="nothing",
        scale="none",
        targets=("q", "v"),
        lr=0.005,
    ),
)
