"""What the members of `lorakit combine` come to: factors of every site, the head, and LoRAHub's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import differential_evolution

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.artifacts.combination import Combination, Factors, Setting, truncated
from lorakit.backbone.site import Site
from lorakit.tasks.batching import Batch
from lorakit.training.objective import Objective
from lorakit.training.seeds import derive_seed
from lorakit.workflow.combine.members import Member, Tensors
from lorakit.workflow.setup import talk

LARGEST_WEIGHT, PENALTY = 1.5, 0.05  # LoRAHub's bounds, and its L1 penalty
GENERATIONS, POPULATION = 10, 5


def combined_factors(
    way: Combination, members: Sequence[Member], sites: Sequence[Site], setting: Setting, ranks: Mapping[str, int]
) -> tuple[dict[str, Factors], float]:
    """Site -> (b, a) of its rank, and how much of the combined updates the ranks lose."""
    factors, lost, whole = {}, 0.0, 0.0
    for site in sites:
        combined = way.combine([each.updates[site.name] for each in members], setting)
        factors[site.name], gone, norm = truncated(combined, ranks[site.name])
        lost, whole = lost + gone, whole + norm
    return factors, math.sqrt(lost / whole) if whole else 0.0


def combined_head(members: Sequence[Member], weights: Sequence[float]) -> tuple[Tensors, str]:
    """The mean of the heads where all tasks have the same labels, by the weights where these are shares; else the first run's."""
    first, *others = members
    alike = all(
        each.task.labels == first.task.labels
        and {name: tensor.shape for name, tensor in each.head.items()} == {n: t.shape for n, t in first.head.items()}
        for each in others
    )
    if not alike:
        talk.info("the runs' labels differ: the head is that of %s", first.path)
        return first.head, str(first.path)
    usable = min(weights) >= 0
    shares = [weight / sum(weights) if usable else 1 / len(weights) for weight in weights]
    mean = {
        name: torch.stack([share * each.head[name] for share, each in zip(shares, members, strict=True)]).sum(dim=0)
        for name in first.head
    }
    return mean, "the weighted mean of all" if usable else "the mean of all"


@torch.no_grad()
def fill(adapted: AdaptedModel, factors: Mapping[str, Factors], head: Mapping[str, torch.Tensor]) -> None:
    """Put the combined factors and head into the new model; factors of a lower rank than the site's leave zeros."""
    state = adapted.tensors()
    for name, (b, a) in factors.items():
        for key, value in ((f"{name}.B", b), (f"{name}.A", a)):
            state[key].zero_()
            state[key][: value.shape[0], : value.shape[1]].copy_(value)
    for name, tensor in head.items():
        state[name].copy_(tensor)


def learnt(
    way: Combination,
    members: Sequence[Member],
    sites: Sequence[Site],
    adapted: AdaptedModel,
    objective: Objective,
    batches: Sequence[Batch],
    seed: int,
) -> list[float]:
    """The weights with the smallest loss on the examples plus L1 penalty, found without gradients."""
    head, _ = combined_head(members, [1.0] * len(members))
    ranks = {site.name: adapted.adapters[site.name].rank for site in sites}
    objective.accelerator.prepare_model(adapted.model)
    adapted.model.eval()
    rows = sum(len(batch["labels"]) for batch in batches)

    @torch.no_grad()
    def loss(weights: Sequence[float]) -> float:
        factors, _ = combined_factors(way, members, sites, Setting([float(w) for w in weights]), ranks)
        fill(adapted, factors, head)
        total = sum(float(objective.summed(adapted.model, batch)) for batch in batches) / rows
        return total + PENALTY * sum(abs(float(weight)) for weight in weights) / len(members)

    found = differential_evolution(
        loss,
        bounds=[(-LARGEST_WEIGHT, LARGEST_WEIGHT)] * len(members),
        x0=[1 / len(members)] * len(members),
        maxiter=GENERATIONS,
        popsize=POPULATION,
        rng=derive_seed(seed, "combine/weights"),
        polish=False,
    )
    talk.info("weights %s after %d losses", ", ".join(f"{w:.3f}" for w in found.x), found.nfev)
    return [float(weight) for weight in found.x]
