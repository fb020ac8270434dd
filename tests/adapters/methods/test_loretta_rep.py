"""LoRETTA-rep (Yang et al. 2024): sum t n t' parameters for each of A and B, n the digits of rank, in and out."""

from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract
from support.adapters.tensor_trains import train

from lorakit.adapters.deltas.tensor_train import TensorTrain
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

test_contract = contract(
    "loretta_rep",
    parameters=lambda rank, inside, outside: train(rank, inside, 5) + train(outside, rank, 5),
)
test_contract_at_another_tensor_rank = contract(
    "loretta_rep",
    every=4,
    parameters=lambda rank, inside, outside: train(rank, inside, 2) + train(outside, rank, 2),
    families=("gpt2",),
    options={"tensor_rank": "2"},
)


def test_the_card_s_example() -> None:
    shapes = TensorTrain.shapes(Site("m", 0, "q", 384, 384, "linear"), 8)
    of_a, of_b = 8 * 5 + 8 * 25 + 8 * 25 + 6 * 5, 8 * 5 + 8 * 25 + 6 * 25 + 8 * 5
    assert sum(a * b * c for a, b, c in shapes.values()) == of_a + of_b == 900


def test_it_is_much_smaller_than_lora(fresh: Fresh) -> None:
    counts = {
        method: adapt(fresh("bert"), AdapterSection(method=method, rank=16)).adapter_parameters()
        for method in ("lora", "loretta_rep")
    }
    assert counts["loretta_rep"] < counts["lora"] / 2
