"""The control of an allocation: the same ranks, at other sites of the same cost."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch


def shuffle_ranks(
    ranks: Mapping[str, int], live: Mapping[str, int], kinds: Mapping[str, Hashable], generator: torch.Generator
) -> dict[str, int]:
    """Site -> a rank of some site of its kind, each rank given once, none above what the site has.

    ranks: site -> rank, at most ``live``; live: site -> its units; kinds: site -> what sites must have in common to exchange ranks, such
    as the cost of a unit. The largest ranks are given first, each to a site drawn from those of its kind that still have as many units
    and no rank yet: there always is one, because the unshuffled sites are.

    Example:
        >>> one_kind = dict.fromkeys("abc", 0)
        >>> sorted(shuffle_ranks({"a": 3, "b": 1, "c": 1}, dict.fromkeys("abc", 3), one_kind, torch.Generator()).values())
        [1, 1, 3]
    """
    found: dict[str, int] = {}
    for name, rank in sorted(ranks.items(), key=lambda item: -item[1]):
        able = [s for s in ranks if s not in found and kinds[s] == kinds[name] and live[s] >= rank]
        found[able[int(torch.randint(len(able), (), generator=generator))]] = rank
    return {name: found[name] for name in ranks}
