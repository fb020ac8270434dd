"""A tokenizer that pads on either side, and a hub that answers as it is told."""

import datasets
import pytest


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    from support.sentences import word_tokenizer

    return word_tokenizer(request.param)


@pytest.fixture
def online(monkeypatch):
    """Answers for ``datasets.load_dataset``, and what it was asked."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "LORAKIT_GLUE_DIR"):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def answer(reply):
        def load_dataset(*args):
            calls.append(args)
            if isinstance(reply, Exception):
                raise reply
            return reply

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return answer
