"""AFLoRA (Liu et al. 2024): r (in + out) + r + out parameters a matrix before anything is frozen."""

from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.adapters.method import methods, resolve
from lorakit.adapters.switching import freeze_for_good
from lorakit.recipe.schema import AdapterSection
from lorakit.training.update import updates

test_contract = contract(
    "aflora", parameters=lambda rank, inside, outside: rank * (inside + outside) + rank + outside, rank=8
)


def test_there_is_no_scale() -> None:
    assert resolve(AdapterSection(method="aflora", alpha=16)).scale_at(4) == 1.0


def test_it_comes_with_the_update_that_freezes() -> None:
    assert methods.get("aflora").updates == ("aflora",)
    assert "aflora" in updates


def test_a_site_whose_matrices_are_settled_trains_its_vectors_alone(fresh: Fresh) -> None:
    adapted = adapt(fresh("bert"), AdapterSection(method="aflora", rank=4))
    for adapter in adapted.adapters.values():
        freeze_for_good(adapter, "A")
        freeze_for_good(adapter, "B")
        assert sum(p.numel() for p in adapter.parameters() if p.requires_grad) == 4 + adapter.site.out_features
