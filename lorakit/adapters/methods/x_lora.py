"""X-LoRA: adapters of finished runs, weighed for every token by a head that has read the text (Buehler & Buehler 2024, arXiv 2402.07148).

    y = W x + b + s sum_e p_e B_e A_e x        p = softmax(H h) over the experts, h: the token's last hidden state without any adapter

adapter.experts: [RUN, RUN, ...] names the runs; their adapters stay as they are, and are copied into the new run. What trains is H, which
all sites share: E (width + 1) parameters at `depth` 1, E the number of runs. Every text is read twice. Cannot be merged: p is another for
every token. s is 1; with adapter.scale: constant it is adapter.alpha (PEFT: global_scaling_weight). Encoder-decoders are refused.
Defaults are PEFT's.
Differs from PEFT's code in: H's biases start at zero; the pass that h comes from is always without adapters (scaling_pass_value 0); the
temperature counts in a softmax over the top_k too; the experts cannot be trained on.
When to use it: where classifiers of several tasks or domains are there already, and a new task mixes what they know; H is a few thousand
parameters.
"""

from lorakit.adapters.method import Method, methods

methods.register(
    Method(
        name="x_lora",
        title="Mixture of finished LoRAs, weighed by what a first pass reads",
        summary="W x + sum_e p_e B_e A_e x, finished runs' B_e A_e frozen, p from the last hidden states of a first pass",
        source="Buehler & Buehler 2024, arXiv 2402.07148",
        delta="scaled_experts",
        init="nothing",
        scale="none",
        lr=2e-3,
        identity=False,
    ),
)
