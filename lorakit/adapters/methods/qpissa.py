"""QPiSSA: PiSSA over a residual that is quantised (Meng et al. 2024, arXiv 2404.02948, section 4).

    s B A = the first r singular triplets of W,  Q = round(W - s B A), by turns with W - Q in place of W;    W' = Q + s B A

rank (in + out) parameters a site, as LoRA. Needs `model.quantization`; alternates `adapter.init_steps` times. The largest directions of W
are in A and B, which train and are not rounded; what is rounded is smaller. The run keeps Q, as LoftQ's. A fresh model is not the
pretrained one, but nearer to it than W rounded is. Merges: Q + s B A is dense.
Differs from the authors' code in: the scale s is divided out of A and B, as theirs has alpha = r, and alternates 5 times by default.
When to use it: as PiSSA, over a base in few bits; its start is nearer to W than LoftQ's in as many turns.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="qpissa",
        title="Quantised PiSSA",
        summary="PiSSA's principal triplets train, over what is left of W in few bits",
        source="Meng et al. 2024, section 4",
        init="qpissa",
        targets=("all",),
        rank=16,
        alpha=16.0,
        lr=5e-4,
        identity=False,
    ),
)
