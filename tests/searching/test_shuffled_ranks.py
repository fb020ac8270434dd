"""The same ranks, elsewhere."""

from __future__ import annotations

from collections import Counter

import torch

from lorakit.searching.shuffled_ranks import shuffle_ranks

RANKS = {"a": 3, "b": 1, "c": 2, "d": 1, "e": 4}
KINDS = {"a": 1, "b": 1, "c": 1, "d": 2, "e": 2}


def test_every_kind_keeps_its_ranks_and_no_site_gets_more_than_it_has() -> None:
    live = {"a": 3, "b": 3, "c": 2, "d": 4, "e": 4}
    seen = set()
    for seed in range(20):
        found = shuffle_ranks(RANKS, live, KINDS, torch.Generator().manual_seed(seed))
        assert list(found) == list(RANKS)
        assert all(found[name] <= live[name] for name in found)
        for kind in (1, 2):
            assert Counter(found[n] for n in found if KINDS[n] == kind) == Counter(
                RANKS[n] for n in RANKS if KINDS[n] == kind
            )
        seen.add(tuple(found.values()))
    assert len(seen) > 4


def test_where_only_one_order_is_possible_it_is_found() -> None:
    for seed in range(5):
        found = shuffle_ranks(RANKS, RANKS, KINDS, torch.Generator().manual_seed(seed))
        assert found == RANKS
