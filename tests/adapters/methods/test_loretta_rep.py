"""LoRETTA-rep (Yang et al. 2024): sum t n t' parameters for each of A and B, n the digits of rank, in and out."""

from support.adapters.cases import Fresh, adapt
from support.adapters.contract import contract

from lorakit.adapters.deltas.tensor_train import TensorTrain
from lorakit.backbone.site import Site
from lorakit.recipe.schema import AdapterSection

DIGITS = {3: [3], 16: [16], 32: [8, 4], 48: [8, 6], 96: [12, 8]}  # the fewest of at most 16 each, the most even ones


def train(rows: int, columns: int, t: int) -> int:
    """t n_1 + t n_2 t + ... + n_d t, or n_1 alone."""
    digits = DIGITS[rows] + DIGITS[columns]
    return t * (digits[0] + digits[-1]) + t * t * sum(digits[1:-1])


test_contract = contract(
    "loretta_rep",
    parameters=lambda rank, inside, outside: train(rank, inside, 5) + train(outside, rank, 5),
)
test_contract_at_another_tensor_rank = contract(
    "loretta_rep",
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
