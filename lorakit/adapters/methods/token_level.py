"""Token-level adaptation: adapters of finished runs, weighed by how near a text is to each run's texts (Belofsky 2023, arXiv 2311.10847).

    y = W x + b + s sum_e p_e B_e A_e x        p = softmax(cos(h, c_e) / T);  h: the text's mean state, c_e: that of run e's texts

The paper weighs anew for each token that a language model writes, by the text so far. A classifier writes one token, the label: p is one a
row. h is the mean of the last hidden states over a row's tokens without any adapter, c_e the mean of h over training rows of run e, at most
2,000, which must still be there when the mixture is made, as they were; it keeps the c_e, and then needs neither rows nor runs. T is the
option `temperature` (1). Of the adapters nothing trains: 0 parameters. The head of the new task does, which language models have in common
and classifiers have not. Every text is read twice. Cannot be merged. Encoder-decoders are refused.
Not checked against the authors' code, which was not read: follows the method section of the paper.
When to use it: as x_lora, where there is too little data to learn what weighs the runs.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="token_level",
        title="Token-level adaptation of finished LoRAs",
        summary="W x + sum_e p_e B_e A_e x, finished runs' B_e A_e frozen, p = softmax of cosines of a text with each run's texts",
        source="Belofsky 2023, arXiv 2311.10847",
        delta="centroid_experts",
        init="nothing",
        scale="none",
        lr=1e-3,
        identity=False,
    ),
)
