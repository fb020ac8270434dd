"""Virtual tokens' embeddings: where they start."""

import torch
from torch.testing import assert_close

from lorakit.adapters.deltas.prompt import Prompt
from lorakit.backbone.site import Site

TABLE = 3.0 * torch.randn(500, 64, generator=torch.Generator().manual_seed(1)) + 1.0


def started(seed: int, tokens: int = 200, **options: str) -> torch.Tensor:
    delta = Prompt(Site("prompt", -1, "prompt", 64, 64, "input"), tokens, options)
    delta.put_at_start(torch.Generator().manual_seed(seed))
    delta.start_from(TABLE)
    return delta.tokens().detach()


def test_vocab_takes_embeddings_of_tokens_from_the_whole_vocabulary() -> None:
    tokens = started(0, start="vocab")
    rows = [int((token == TABLE).all(dim=1).nonzero()) for token in tokens]
    assert len(set(rows)) > 100
    assert min(rows) < 25
    assert max(rows) > 475
    assert torch.equal(tokens, started(0))
    assert not torch.equal(tokens, started(2))


def test_random_is_normal_and_as_large_as_the_embeddings() -> None:
    tokens = started(0, start="random")
    assert_close(tokens.std(), TABLE.std(), rtol=0.02, atol=0)
    assert_close(tokens.mean().item(), 0.0, rtol=0, atol=0.1)
