"""One backbone in memory for several models: each has modules of its own, and all hold the same frozen tensors.

    model A    modules, head A, what is adapted --+
    model B    modules, head B, what is adapted --+--> W, b, embeddings, norms: once, and never written to
    model C    modules, head C, what is adapted --+

What one model puts in a module's place, a forward, a parameter, a read-out, is seen by none of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from lorakit.errors import RunError


class SharedBackbone:
    """What is loaded first, kept for all models after it."""

    def __init__(self) -> None:
        self.model: Any = None
        """As transformers loaded it, in eval mode; None while nothing is. Nothing is ever attached to it."""
        self.info: dict[str, Any] = {}
        """What transformers said of the loading."""
        self.own: set[str] = set()
        """The parameters that every model has for itself: the head, and what the checkpoint lacks."""
        self.read: Any = None
        """The tokenizer as it was read."""

    def tokenizer(self, read: Callable[[], Any]) -> Any:
        """One on the vocabulary that all have in common, whose settings are its own."""
        if self.read is None:
            self.read = read()
        return copy.copy(self.read)

    def model_for(self, config: Any, load: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
        """A model with the labels of ``config`` and a head whose values are still to come, and what was said of the loading.

        Only the first one is loaded. RunError for architectures whose head cannot be told from the rest.
        """
        if self.model is None:
            self.keep(*load())
        return self.another(config), self.info

    def keep(self, model: Any, info: dict[str, Any]) -> None:
        """Keep a model that was just loaded."""
        base = model.base_model
        if base is model:
            raise RunError(
                f"{type(model).__name__} has no part without a head, which several heads could have in common"
            )
        inner = {id(parameter) for parameter in base.parameters()}
        fresh = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        self.own = {name for name, each in model.named_parameters() if name in fresh or id(each) not in inner}
        self.info = info
        self.model = model.requires_grad_(False).eval()

    def another(self, config: Any) -> Any:
        """The kept model again, with the labels of ``config``."""
        model = self.copied(self.model)
        for name in ("id2label", "label2id", "problem_type"):
            setattr(model.config, name, getattr(config, name))
        if config.num_labels != self.model.config.num_labels:
            fit_outputs(model, self.own)
        return model

    def check_own(self, model: nn.Module, names: Iterable[str]) -> None:
        """RunError where one of these parameters, which a model trains, is one that all have in common."""
        frozen = {id(each) for _, each in named_tensors(self.model)}
        if together := [name for name in names if id(model.get_parameter(name)) in frozen]:
            what = f"{together[0]} is trained, and is no part of a {type(model).__name__} that it could have for itself"
            raise RunError(what, hint="each run by itself")

    def copied(self, model: Any) -> Any:
        """The model again: modules, configuration and what is ``own`` are new, all other tensors the same ones."""
        frozen = {id(each): each for name, each in named_tensors(model) if name not in self.own}
        return copy.deepcopy(model, dict(frozen))


def named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def fit_outputs(model: Any, own: set[str]) -> None:
    """Give the output layer as many outputs as the configuration has labels."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            wanted = {name: each.shape for name, each in type(model)(copy.deepcopy(model.config)).named_parameters()}
        except Exception as error:  # whatever a model's own code says
            what = f"a {type(model).__name__} with another number of labels cannot be made: {error}"
            raise RunError(what, hint="runs of as many labels, or each by itself") from error
    for name in own:
        path, _, last = name.rpartition(".")
        owner, now = model.get_submodule(path), model.get_parameter(name)
        if now.shape != wanted[name]:
            owner.register_parameter(last, nn.Parameter(now.new_zeros(wanted[name])))
            if isinstance(owner, nn.Linear):
                owner.out_features = wanted[name][0]
    if hasattr(model, "num_labels"):
        model.num_labels = model.config.num_labels


def bytes_beside(model: nn.Module, shared: nn.Module) -> int:
    """What the tensors of ``model`` take that are none of ``shared``'s."""
    known = {each.data_ptr() for _, each in named_tensors(shared)}
    own = {each.data_ptr(): each.nbytes for _, each in named_tensors(model) if each.data_ptr() not in known}
    return sum(own.values())
