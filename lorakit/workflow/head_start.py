"""``model.head_start: fitted``: the new head starts as logistic regression on what the frozen model makes of the training rows.

Fine-tuning from a head that is drawn at random first bends the features towards that head; from one that already reads them well it
keeps what is good in them (Kumar et al. 2022, Fine-Tuning can Distort Pretrained Features, section 4: linear probing, then
fine-tuning). Its logits start at a quarter of the fit's, which decides the same: of a head that is as sure as the fit, small moves of
the features make large ones of the logits, and it ends surer than it is right (scripts/README.md). Numbers to predict start as fitted.
"""

from __future__ import annotations

import torch

from lorakit.backbone.readout import OWN
from lorakit.recipe.schema import AUTO
from lorakit.tasks.linear_probe import fit_outputs
from lorakit.workflow.frozen_features import labels_looked_at, output_layer, starts_fitted, training_features
from lorakit.workflow.parts import Parts

SHARE = 0.25
"""Of the fit's logits."""


def start_head(parts: Parts) -> None:
    """Start a new head at what fits the training rows best, at most FROZEN_ROWS of them, where the recipe asks for that.

    RecipeError (key ``model.head_start``) where the model's outputs are not one linear layer.
    """
    if not starts_fitted(parts):
        return
    _, layer = output_layer(parts)
    name = OWN if parts.recipe.model.readout == AUTO else parts.recipe.model.readout
    features = training_features(parts, name)[name]
    if features is None:
        raise ValueError(f"the read-out '{name}' was loaded and has no features")
    weight, bias = fit_outputs(features, labels_looked_at(parts), parts.task, parts.strengths.get(name))
    share = 1.0 if parts.task.regression else SHARE
    with torch.no_grad():
        layer.weight.copy_(share * torch.from_numpy(weight))
        if layer.bias is not None:
            layer.bias.copy_(share * torch.from_numpy(bias))
