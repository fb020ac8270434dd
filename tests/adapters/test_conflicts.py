"""Values of axes that do not go together."""

from __future__ import annotations

import pytest

from lorakit.adapters.conflicts import conflicts_with_search
from lorakit.adapters.method import resolve
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AdapterSection, SearchSection


@pytest.mark.parametrize("trainable", ["C", "magnitude", "B+C", "A+B+gate"])
def test_an_unknown_role_is_refused_whatever_stands_beside_it(trainable: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(AdapterSection(trainable=trainable))
    problem = caught.value.problems[0]
    assert problem.key == "adapter.trainable"
    assert trainable in problem.what
    assert "A+B" in problem.valid


@pytest.mark.parametrize(
    ("method", "trainable", "shared"),
    [
        ("tied_lora", None, "A and B"),
        ("lotr", None, "A and B"),
        ("vb_lora", None, "bank"),
        ("tied_lora", "B+vector", "B"),
        ("vb_lora", "logits", ""),
        ("vera", None, ""),
        ("lora", None, ""),
    ],
)
def test_a_site_that_moves_with_others_cannot_be_frozen(method: str, trainable: str | None, shared: str) -> None:
    spec = resolve(AdapterSection(method=method, trainable=trainable))
    found = conflicts_with_search(spec, SearchSection(method="heterolora", off="freeze"))
    assert [(problem.key, problem.valid) for problem in found] == ([("search.off", "drop")] if shared else [])
    assert all(f"share {shared}:" in problem.what for problem in found)
    assert conflicts_with_search(spec, SearchSection(method="heterolora", off="drop")) == []
    assert conflicts_with_search(spec, SearchSection(off="freeze")) == []


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"method": "lora"}, ""),
        ({"method": "rslora"}, ""),
        ({"method": "lora_plus"}, ""),
        ({"method": "dora"}, ""),
        ({"method": "eva"}, ""),
        ({"init": "gaussian"}, ""),
        ({"method": "pissa"}, "subtracted"),
        ({"method": "olora"}, "subtracted"),
        ({"method": "lora_ga"}, "subtracted"),
        ({"method": "lora_fa"}, "does not train"),
        ({"method": "asymmetric"}, "does not train"),
        ({"method": "adalora"}, "no plain product"),
        ({"method": "vera"}, "no plain product"),
        ({"method": "melora"}, "no plain product"),
        ({"method": "bitfit"}, "no plain product"),
    ],
    ids=str,
)
def test_factors_are_written_anew_where_there_is_a_product_of_two_that_train(axes: dict[str, str], reason: str) -> None:
    spec = resolve(AdapterSection(**axes))  # type: ignore[arg-type]
    found = conflicts_with_search(spec, SearchSection(method="squeeze"))
    assert [problem.key for problem in found] == (["search.method"] if reason else [])
    assert all(reason in problem.what for problem in found)


@pytest.mark.parametrize(
    ("init", "scale", "refused"),
    [
        ("loftq", "lora", True),
        ("lq_fisher", "rslora", True),
        ("loftq", "none", False),
        ("loftq", "constant", False),
        ("pissa", "lora", False),
    ],
)
def test_a_product_that_belongs_to_its_weights_keeps_its_scale(init: str, scale: str, refused: bool) -> None:
    """Of rank 8 at alpha 8 s is 1; with the first unit alone DyLoRA's is 8, and Q lacks s B A."""
    spec = resolve(AdapterSection(init=init, scale=scale, rank=8, alpha=8.0))
    found = conflicts_with_search(spec, SearchSection(method="dylora"))
    assert [problem.key for problem in found] == ["search.method"] * refused


@pytest.mark.parametrize("method", ["heterolora", "adalora", "lora_drop"])
def test_there_is_nothing_to_search_where_sites_have_nothing_of_their_own(method: str) -> None:
    (problem,) = conflicts_with_search(resolve(AdapterSection(method="intrinsic")), SearchSection(method=method))
    assert (problem.key, problem.valid) == ("search.method", "none with this adapter")
    assert conflicts_with_search(resolve(AdapterSection(method="intrinsic")), SearchSection()) == []
