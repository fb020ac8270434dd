"""What the tests of one's own loop share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.models import ENCODER
from transformers import (
    BertConfig,
    BertForSequenceClassification,
)


@pytest.fixture(scope="module")
def fresh() -> Callable[[], Any]:
    """A tiny BERT with a head, in eval mode, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = BertForSequenceClassification(BertConfig(**ENCODER, num_labels=2)).eval()
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return lambda: copy.deepcopy(made)
