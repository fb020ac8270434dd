"""SparseAdapter's pruning at initialisation (He et al. 2022, arXiv 2210.04284).

    mask = the keep * N entries of all A and B with the largest scores, N their number      entries outside it are 0 for ever

Scored once, before the first step, over all sites together; exactly round(keep * N) entries stay. Scores: snip |p * dL/dp|, summed
gradients of `batches` training batches (`lorakit show snip`); magnitude |p|; random. Options: keep, score, batches.
A LoRA starts with B = 0, where snip and magnitude are zero on B and snip on A too. So a tensor that starts at zero is scored
at a small random value, normal with deviation 0.02, from the update's own stream, and put back to zero: by magnitude its entries are
then chosen at random. Pruned entries are put to zero after every step, so neither momentum nor weight decay brings them back. Clipping
still sees their gradients.
Differs from the authors' code in: no GraSP and SynFlow scores, and no schedules that prune in several rounds; a tensor that starts at
zero is scored at a small random value; a quarter is kept, half there, by its option `sparsity`, which is the share kept and is called
keep here.
When to use it: with a large rank, so that the same number of kept entries can choose among more places (`sparse_adapter`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from lorakit.adapters.adapted_model import HEAD, AdaptedModel
from lorakit.adapters.json_tensors import pack_all, unpack_all
from lorakit.adapters.options import Option
from lorakit.searching.proxy import Probe
from lorakit.searching.scoring import without_trace
from lorakit.training.hooks import TrainState
from lorakit.training.pruning import largest, part, prunable
from lorakit.training.update import Update, UpdateContext, updates

SMALL = 0.02
"""The deviation at which a tensor that starts at zero is scored: that of the usual initialiser of language models."""


class SparseMask(Update):
    """masks: tensor name -> which of its entries are kept; empty until they are chosen."""

    name = "sparse_mask"
    summary = "one-shot pruning of A and B before the first step; the pruned entries stay 0"
    source = "He et al. 2022, SparseAdapter, arXiv 2210.04284"
    fixes_entries = True
    options: ClassVar = {
        "keep": Option(0.25, "share of all entries of A and B that stay", low=0.001, high=1),
        "score": Option("snip", "what ranks the entries", choices=("snip", "magnitude", "random")),
        "batches": Option(8, "training batches that snip looks at", low=1),
    }

    @classmethod
    def passes_batches(cls, settings: Mapping[str, Any]) -> bool:
        """Those that snip looks at."""
        return bool(settings["score"] == "snip")

    @classmethod
    def notes(cls, adapted: AdaptedModel, settings: Mapping[str, Any]) -> list[str]:
        """Raises RecipeError where there are no factors that may be pruned."""
        prunable(adapted, cls.name)
        return []

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        self.tensors = prunable(context.adapted, self.name)
        self.masks: dict[str, torch.Tensor] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """Choose, unless a checkpoint has."""
        if not self.masks:
            self.masks = self.choose()
        self.project()

    def after_step(self, state: TrainState) -> None:
        """What the optimiser moved of the pruned entries goes back to zero."""
        self.project()

    def after_trial_step(self) -> None:
        """The same."""
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Pruned entries are zero."""
        for tensor in self.tensors:
            tensor.parameter.mul_(self.masks[tensor.name])

    def choose(self) -> dict[str, torch.Tensor]:
        """Tensor name -> mask, by one ranking of all entries."""
        scores = self.scores()
        flat = torch.cat([score.flatten() for score in scores.values()])
        kept = largest(flat, part(self.settings["keep"], len(flat)))
        pieces = kept.split([score.numel() for score in scores.values()])
        return {name: piece.view_as(score) for (name, score), piece in zip(scores.items(), pieces, strict=True)}

    def scores(self) -> dict[str, torch.Tensor]:
        """Tensor name -> a score for each entry."""
        context = self.context
        if self.settings["score"] == "random":
            return {t.name: self.drawn(torch.rand, t.parameter) for t in self.tensors}
        zero = [t.parameter for t in context.adapted.trained() if t.role != HEAD and not t.parameter.any()]
        try:
            for parameter in zero:
                parameter.data.copy_(SMALL * self.drawn(torch.randn, parameter))
            if self.settings["score"] == "magnitude":
                return {t.name: t.parameter.detach().abs() for t in self.tensors}
            gradients = self.gradients()
            return {t.name: (t.parameter.detach() * gradients[t.name]).abs() for t in self.tensors}
        finally:
            for parameter in zero:
                parameter.data.zero_()

    def gradients(self) -> dict[str, torch.Tensor]:
        """Tensor name -> dL/dp summed over training batches, without dropout."""
        context, objective = self.context, self.context.objective
        batches = context.draw(self.settings["batches"])
        seed = int(torch.randint(2**31, (), generator=context.generator))
        with without_trace(context.adapted, train_mode=False, seed=seed):
            probe = Probe(context.adapted, batches, objective.mean, objective.logits, objective.regression)
            table = probe.gradients()
        return {f"{site}.{name}": gradient for site, own in table.items() for name, gradient in own.items()}

    def drawn(self, distribution: Any, like: torch.Tensor) -> torch.Tensor:
        """Numbers from the update's own stream, in the shape of ``like``."""
        numbers: torch.Tensor = distribution(like.shape, generator=self.context.generator)
        return numbers.to(like)

    def state_dict(self) -> dict[str, Any]:
        """The masks too."""
        return super().state_dict() | {"masks": pack_all(self.masks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        super().load_state_dict(state)
        self.masks = unpack_all(state["masks"], self.tensors[0].parameter.device)


updates.register(SparseMask)
