"""A tokenizer that pads on either side."""

import pytest


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    from support.sentences import word_tokenizer

    return word_tokenizer(request.param)
