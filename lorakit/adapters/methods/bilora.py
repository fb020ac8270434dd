"""BiLoRA: a singular value form whose vectors and values learn on different rows (Qiang et al. 2024, arXiv 2403.13037).

    dW = s B diag(g) A        A: rank x in and B: out x rank ~ N(0, 0.02^2), g: rank, starts at 0;  s = alpha / rank

rank (in + out) + rank parameters a site. B and A learn on four fifths of the training rows, kept near to orthonormal, and g on the
others: the update `bilora` (adapter.update_options share, 0.2, and orthogonality, 0.1). A step takes twice the passes. Merges exactly.
Not checked against the authors' code, which was not reached: follows the method section of the paper. To first order.
When to use it: on few rows, where the training loss falls far below that of other rows.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="bilora",
        title="BiLoRA",
        summary="dW = B diag(g) A; B and A learn on one part of the rows, g on the other",
        source="Qiang et al. 2024, arXiv 2403.13037",
        delta="diagonal",
        init="small_gaussian",
        targets=("all",),
        lr=1e-3,
        updates=("bilora",),
    ),
)
