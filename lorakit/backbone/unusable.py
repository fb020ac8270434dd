"""Architectures that transformers lists as sequence classifiers, and that cannot be trained on text here: with the reason, at load.

Those without a single Linear module (I-BERT, SqueezeBERT) are refused by the anatomy.
"""

from __future__ import annotations

import sys
from typing import Any

from lorakit.errors import RecipeError

MRA = "transformers.models.mra.modeling_mra"
REASONS = {
    "layoutlmv2": "it looks at pictures of pages, which a text has none of",
    "tapas": "it reads tables, and texts alone are none",
    "reformer": "its attention hashes tokens at random, so that a text's label changes from call to call",
    "mra": "its attention is a CUDA kernel; without it transformers computes zeros, and every text gets the same label",
}


FLOAT32_ALONE = ("deberta", "fnet", "xlnet")
"""Architectures that transformers cannot compute in half precision: some of their tensors stay in float32 when they are loaded, or
they Fourier transform."""
NOT_BESIDE_HALVES = ("deberta", "xmod")
"""Those that it cannot compute in float32 with products in half precision: numbers of the one go where only the other may be."""


def refuse_unusable(config: Any, name: str) -> None:
    """RecipeError (key ``model.name``) for a model that would train to nothing; MRA's kernel is known once its code is imported."""
    kind = config.model_type
    if kind == "mra" and (MRA not in sys.modules or sys.modules[MRA].mra_cuda_kernel is not None):
        return
    if reason := REASONS.get(kind):
        raise RecipeError(
            f"'{name}' is a {kind} model, which cannot be trained here: {reason}",
            key="model.name",
            hint="an encoder such as bert, roberta or deberta-v2, or a decoder such as llama or gpt2",
        )


def refuse_half_precision(config: Any, dtype: str) -> None:
    """RecipeError (key ``model.dtype``) for weights in half precision that the model's own code cannot compute with."""
    if dtype != "float32" and config.model_type in FLOAT32_ALONE:
        raise RecipeError(
            f"{config.model_type} models compute in float32 alone",
            key="model.dtype",
            valid="float32",
        )


def refuse_mixed_precision(config: Any, precision: str) -> None:
    """RecipeError (key ``training.precision``) for products in half precision that the model's own code cannot compute with."""
    if precision != "fp32" and config.model_type in NOT_BESIDE_HALVES:
        raise RecipeError(
            f"{config.model_type} models do not compute with products in half precision",
            key="training.precision",
            valid="fp32",
        )
