"""EVA: LoRA whose A starts at the inputs' principal components (Paischer et al. 2024, arXiv 2410.07170, section 3).

    A = the first r principal components of the site's inputs x (orthonormal rows),  B = 0;    W' = W + s B A

rank (in + out) parameters a site, as LoRA. Looks at `adapter.init_batches` training batches first. Merges exactly: W' = W + s B A.
Checked against the authors' code.
Differs from PEFT's code in: principal components of all tokens at once, where it (as the paper) adds batches until the directions settle;
every site keeps its rank, where the paper, and PEFT with rho > 1, hand ranks from sites whose inputs vary little to others: that is
`search.method=eva`.
When to use it: in place of LoRA at small ranks, where a random A would miss most of the inputs.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="eva",
        title="Explained variance adaptation",
        summary="W x + (alpha/r) B A x, A the inputs' principal components, B zero",
        source="Paischer et al. 2024, section 3",
        init="eva",
    ),
)
