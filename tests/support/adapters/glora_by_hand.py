"""What a configuration of GLoRA costs, by the table of its paper."""

from lorakit.backbone.site import Site


def cost(
    site: Site, rank: int = 3, A: str = "lora", B: str = "lora", C: str = "lora", D: str = "vector", E: str = "vector"
) -> int:
    """Parameters on ``site``."""
    wide, high = site.in_features, site.out_features
    of_weight = {"lora": rank * (high + wide), "vector": high, "scalar": 1, "none": 0}
    of_input = {"lora": rank * (wide + 1), "vector": wide, "none": 0}
    of_bias = {"vector": high, "scalar": 1, "none": 0}
    return of_weight[A] + of_weight[B] + (of_input[C] + of_bias[D] + of_bias[E] if site.bias else 0)
