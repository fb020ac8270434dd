"""Dynamic DoRA's adapter: B diag(g) A with a wide start, scaled by 8 / rank."""

import math

from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.recipe.schema import AdapterSection

test_contract = contract("dynamic_dora", parameters=lambda rank, inside, outside: rank * (inside + outside) + rank)


def test_its_start_is_the_authors(fresh: Fresh) -> None:
    """kaiming_uniform_ with a = 0 and alpha 8 (MIkumikumi0116/DoRA): bounds sqrt(6 / in) of A and sqrt(6 / rank) of B."""
    adapted = adapt(fresh("bert"), AdapterSection(method="dynamic_dora", targets=["q", "up"]))
    for adapter in adapted.adapters.values():
        delta, spec = adapter.delta, adapter.spec
        assert 0.9 < float(delta.A.detach().abs().max()) / math.sqrt(6 / adapter.site.in_features) <= 1
        assert 0.9 < float(delta.B.detach().abs().max()) / math.sqrt(6 / spec.rank) <= 1
        assert spec.scale_at(spec.rank) == 8 / spec.rank
