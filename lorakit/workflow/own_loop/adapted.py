"""What ``lorakit.adapt`` returns: what trains in the model, and how it is saved and folded in."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorakit.adapters.adapted_model import AdaptedModel, TrainedTensor, digest_of
from lorakit.adapters.adapter import Adapter
from lorakit.adapters.gradient_checkpointing import recompute_layers
from lorakit.adapters.spec import AdapterSpec
from lorakit.adapters.switching import DROPPED
from lorakit.artifacts.adapter_file import (
    OURS,
    check_saved,
    description,
    read_tensors,
    save_tensors,
    write_adapter,
)
from lorakit.artifacts.files import folder as filled
from lorakit.artifacts.files import write_json
from lorakit.artifacts.merge import check_foldable, fold
from lorakit.backbone.own_model import frozen_tensors
from lorakit.errors import RunError, UsageError
from lorakit.recipe.schema import AdapterSection, TrainingSection
from lorakit.training.optim import rate_groups
from lorakit.workflow.verify import ROUNDINGS

logger = logging.getLogger(__name__)

CHECKPOINT = re.compile(r"checkpoint-\d+")
"""What the Trainer of transformers calls the folders that it goes on from itself."""
TOLD = "told_of_checkpoints"
PROOF_ROWS = 16
BUFFERS = "buffers.safetensors"
"""Of a saved adapter: the buffers that the training moved."""
DIGITS = 16
"""Of a tensor's sha256 that are kept."""


class Adapted:
    """A model with adapters, for a loop of your own. Made by ``lorakit.adapt`` and ``lorakit.attach_saved``.

    model: yours, with the adapters in it: call it, move it, and wrap or compile it as you like; inside: the same as lorakit itself sees it;
    merged: whether the adapters are folded in.
    """

    def __init__(
        self,
        inside: AdaptedModel,
        section: AdapterSection,
        linear: AdapterSpec,
        shortcut: AdapterSpec,
        ranks: Mapping[str, int],
        options: Mapping[str, Mapping[str, Any]],
        seed: int,
    ):
        self.inside = inside
        self.section = section
        self.linear, self.shortcut = linear, shortcut
        self.ranks, self.options = dict(ranks), {name: dict(values) for name, values in options.items()}
        self.seed = seed
        self.merged = False
        self.buffers_then = digests_of(own_buffers(inside))
        if isinstance(inside.model, PreTrainedModel):
            inside.model.save_pretrained = partial(save_unfolded, inside.model)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        if self.merged:
            return f"<{self.section.method}, folded into the model>"
        head = f" and {self.inside.head_parameters():,} of the head" if self.inside.new_parts else ""
        return (
            f"<{self.section.method} on {len(self.inside.sites)} sites, {len(self.inside.on)} of them on: "
            f"{self.inside.adapter_parameters():,} adapter parameters{head}>"
        )

    @property
    def model(self) -> nn.Module:
        """The model that was handed over."""
        return self.inside.model

    def trained(self) -> list[TrainedTensor]:
        """Every tensor that may train, in an order that never changes: sites that a search has switched off just now are among them.

        Returns:
            For each its ``name``, its ``parameter``, its ``role`` (A, B, magnitude, ..., head) and the name of its ``site`` (None for
            the head and for what sites share).

        Example:
            >>> sum(tensor.parameter.numel() for tensor in adapted.trained())      # doctest: +SKIP
            3074
        """
        self.check_there()
        return list(self.inside.trained())

    def groups(self, lr: float, *, head_lr: float | None = None, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser of torch, as `lorakit train` makes them.

        Args:
            lr: the learning rate of the adapters. Tensors that a method lets learn faster (LoRA+'s B) get their multiple of it, which an
                optimiser over bare parameters, such as the Trainer's own, does not give them.
            head_lr: that of what trains whole; ``lr`` by default.
            weight_decay: of matrices; vectors and gates do not decay.

        Returns:
            Dictionaries with ``params``, ``lr`` and ``weight_decay``; every trained tensor is in one of them.

        Example:
            >>> optimizer = torch.optim.AdamW(adapted.groups(lr=5e-4))             # doctest: +SKIP
        """
        self.check_there()
        section = TrainingSection(lr=lr, head_lr=head_lr, weight_decay=weight_decay)
        return rate_groups(self.inside, section, lr)

    def recompute_layers(self) -> None:
        """Gradient checkpointing for this model: a layer keeps its input alone and is computed a second time on the way back.

        In place of the model's own ``gradient_checkpointing_enable``, whose reentrant kind gives a frozen model no gradients. RecipeError
        where the model's layers cannot.
        """
        self.check_there()
        recompute_layers(self.inside)

    def save(self, folder: str | Path) -> Path:
        """Write the adapters and what trained whole, in the form of a run's ``adapter`` folder, and read them back.

        Buffers that the training moved, as batch norms move their means, are beside it; PEFT does not read them, which is said. What trains
        besides, because somebody unfroze it, is not written, which is said too.

        Args:
            folder: takes the place of an adapter that was saved there before. Plain LoRA or DoRA on a model of transformers PEFT loads
                from it as it is. One process writes it.

        Returns:
            The folder.

        Raises:
            UsageError: for a folder with other things in it.
            RunError: where a tensor is not finite, or is not on disk as it is in memory.

        Example:
            >>> adapted.save("adapter")                                            # doctest: +SKIP
            PosixPath('adapter')
        """
        self.check_there()
        target = Path(folder)
        if target.exists() and any(target.iterdir() if target.is_dir() else [target]) and not (target / OURS).is_file():
            raise UsageError("is no adapter that was saved before, and is not replaced", where=str(target))
        known = {id(tensor.parameter) for tensor in self.inside.trained()}
        if more := [n for n, p in self.model.named_parameters() if p.requires_grad and id(p) not in known]:
            hint = "lorakit.adapt(..., head=[...]) trains and saves parts of the model"
            logger.warning(
                "%s trains too, and is not saved with the adapter (%d such tensors): %s", more[0], len(more), hint
            )
        if moved := self.moved_buffers():
            what = "PEFT would leave the model's own in their place"
            logger.warning(
                "%s has moved since the start, and is saved in %s (%d such buffers): %s",
                next(iter(moved)),
                BUFFERS,
                len(moved),
                what,
            )
        with filled(target) as place:
            write_adapter(self.inside, place)
            own = {"adapter": asdict(self.section), "seed": self.seed, "frozen": self.frozen | self.buffers_then}
            write_json(place / OURS, description(self.inside) | own | {"buffers": sorted(moved)})
            if moved:
                save_tensors(moved, place / BUFFERS)
        check_saved(self.inside, target)
        return target

    def moved_buffers(self) -> dict[str, torch.Tensor]:
        """Name -> each buffer of the model that is not as it was when the adapters came, such as a batch norm's running mean."""
        now = own_buffers(self.inside)
        return {name: now[name] for name, digest in digests_of(now).items() if digest != self.buffers_then.get(name)}

    @torch.no_grad()
    def put_buffers(self, folder: Path, names: Sequence[str]) -> None:
        """Put in the buffers that were saved in ``folder``. RunError where they are not those that it says, or have no place here."""
        if not names:
            return
        saved, here = read_tensors(folder / BUFFERS), own_buffers(self.inside)
        for name in sorted({*names, *saved}):
            if name not in saved or name not in here or saved[name].shape != here[name].shape:
                raise RunError(f"buffer {name} is missing, or has no place in this model", where=str(folder / BUFFERS))
        for name, tensor in saved.items():
            here[name].copy_(tensor)

    @cached_property
    def frozen(self) -> dict[str, str]:
        """Name -> digest of each tensor that does not train, by which ``lorakit.attach_saved`` knows the model again."""
        return digests(self.inside)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Fold the adapters into the weights, in place: the model is a plain one again, and this object is done with.

        Each adapted module proves itself first, on a copy: for random inputs the folded one gives what the adapted one does, up to the
        rounding of its dtype. Sums are made in float64 and rounded once. What trained whole stays as it is, and all else frozen.

        Returns:
            The model, the same object.

        Raises:
            RunError: for methods and shortcuts that no weight can hold, for a weight that several modules have, and for a module that
                comes out otherwise; then nothing is changed.

        Example:
            >>> model = adapted.merge()                                            # doctest: +SKIP
            >>> model.save_pretrained("merged")                                    # doctest: +SKIP
        """
        self.check_there()
        self.check_mergeable()
        for module, adapters in by_module(self.inside).items():
            prove(module, adapters)
        fold(self.inside)
        self.take_away()
        return self.model

    def take_away(self) -> None:
        """Leave the model without any adapter; what is not folded in is lost."""
        for name in ("save_pretrained", TOLD):
            vars(self.model).pop(name, None)
        self.inside.restore(dict.fromkeys(self.inside.adapters, DROPPED))
        held = {*self.inside.adapters.values(), *self.inside.shared.values()}
        for module in list(self.model.modules()):
            for name, child in list(module.named_children()):
                if child in held or (
                    isinstance(child, nn.ModuleDict) and len(child) and held.issuperset(child.values())
                ):
                    delattr(module, name)
        self.merged = True

    def check_mergeable(self) -> None:
        """RunError for what no weight can hold."""
        hint = "save(folder) keeps it as it is"
        if live := self.inside.live_shortcuts:
            raise RunError("a shortcut is no weight of the model", where=live[0].site.name, hint=hint)
        try:
            check_foldable(self.inside)
        except RunError as error:
            raise RunError([replace(problem, hint=hint) for problem in error.problems]) from None

    def check_there(self) -> None:
        """UsageError where the adapters are folded in, and there is nothing left to ask."""
        if self.merged:
            raise UsageError("the adapters are folded into the model", hint="lorakit.adapt(model) for new ones")


def save_unfolded(model: PreTrainedModel, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """``save_pretrained`` of a model with adapters: it is said what nobody reads of what it writes, of the Trainer's checkpoints once."""
    folder, told = Path(save_directory), vars(model).setdefault(TOLD, [])
    if not told or not CHECKPOINT.fullmatch(folder.name):
        what = "has the frozen weights with adapters beside, which from_pretrained leaves out"
        logger.warning("%s %s: adapted.save(folder) keeps them, adapted.merge() folds them in first", folder, what)
    if CHECKPOINT.fullmatch(folder.name):
        told.append(str(folder))
    return type(model).save_pretrained(model, save_directory, *args, **kwargs)


def by_module(adapted: AdaptedModel) -> dict[nn.Module, list[Adapter]]:
    """Module -> the adapters in the function that are a change of its weight, in the order in which they stand on it."""
    found: dict[nn.Module, list[Adapter]] = {}
    for adapter in adapted.adapters.values():
        if adapter.base is not None and adapter.on_weight and adapter.state != DROPPED:
            found.setdefault(adapter.base, []).append(adapter)
    return found


def prove(module: nn.Module, adapters: list[Adapter]) -> None:
    """RunError unless a copy of an adapted module, folded, gives for random inputs what the module itself does."""
    like: torch.Tensor = module.weight  # type: ignore[assignment]
    site = adapters[0].site
    x = torch.randn(PROOF_ROWS, site.in_features, generator=torch.Generator().manual_seed(0)).to(
        like.device, like.dtype
    )
    own, made = module.training, None
    try:
        expected = module.eval()(x)
        made = copy.deepcopy(module)
    finally:
        module.train(own)
    for name, child in list(made.named_children()):
        if isinstance(child, Adapter):
            delattr(made, name)
            if child.delta.shared is not None:
                child.delta.shared.double()
            if child.state != DROPPED:
                child.fold()
    largest = float(expected.abs().max())
    difference, allowed = (
        float((made(x) - expected).abs().max()),
        ROUNDINGS * torch.finfo(like.dtype).eps * max(largest, 1.0),
    )
    if not difference <= allowed:
        what = f"folded, this module gives other outputs: they differ by {difference:.3g}, and are up to {largest:.3g}"
        raise RunError(
            what, where=site.name, valid=f"at most {allowed:.3g}", hint="weights in float32 are the most exact"
        )


def own_tensors(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """Name -> each tensor of the model that is not the adapters' and does not train; shares memory."""
    inner = {id(module) for adapter in adapted.adapters.values() for module in adapter.modules()}
    inner |= {id(module) for shared in adapted.shared.values() for module in shared.modules()}
    return frozen_tensors(adapted.model, adapted.new_parts, inner)


def own_buffers(adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """Name -> each of them that is a buffer."""
    return {name: tensor for name, tensor in own_tensors(adapted).items() if not isinstance(tensor, nn.Parameter)}


def digests(adapted: AdaptedModel) -> dict[str, str]:
    """Name -> digest of each tensor of the model that is not the adapters' and does not train."""
    originals = {
        f"{name}.{key}": original
        for name, adapter in adapted.adapters.items()
        if adapter.delta.replaces_parameters
        for key, original in adapter.originals.items()
    }
    return digests_of(own_tensors(adapted) | originals)


def digests_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name -> the beginning of the sha256 of each tensor's name, dtype, shape and values."""
    return {name: digest_of({name: tensor})[:DIGITS] for name, tensor in tensors.items()}
