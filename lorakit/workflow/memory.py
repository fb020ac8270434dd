"""Memory of a training, told before it: what is held all along, and the peak of a step, a scoring pass or an evaluation.

    held          the frozen weights, 4 bytes a trained number, 4 more for its gradient, and what the optimiser keeps of it (AdamW: 8);
                  copies to go back to, while a rate is found, and the snapshots of an average, whichever is more
    kept(b, t)  = c + b (c0 + c1 t + c2 t^2)         what autograd keeps of b rows of t tokens for the way back
    step        = holes (kept + 2 b t w)             w: the widest array of a layer; two of them are made on the way back; or what the
                                                     optimiser makes of the largest tensor, when all that is gone, where that is more
    recomputed  = kept, of layers' inputs alone + 1 / layers of what would be kept + 2 b t w
    evaluation  = b' t (2 w + 3 d) + 2 b' heads t^2 where attention is eager          b': its batch; d: the hidden width

The four numbers of ``kept`` are counted, not guessed: by autograd's own account of forward passes over rows of a few tokens, which is
exactly such a polynomial. So they hold for any model, method, dropout, precision and attention: c is what does not depend on the
rows (weights cast by autocast), c2 is there only where the attention stores its table. holes is what malloc's heap adds on a CPU,
where nothing makes it give memory back (``training.malloc``). Of quantised weights one at a time is dense, in at most float32, in a
step and in an evaluation. Where all are dense before any is quantised (mixed ones, and starts that quantise), the peak is not below that.

Where processes share the frozen weights out (``sharding``), each holds its part of them, and beside a step's or an evaluation's memory
two layers that are put together, the one that is computed and the next, which is fetched meanwhile, and what is in no layer; for a moment
the token embedding is there twice.

Not counted: Python and its libraries (about half a gigabyte on a CPU, with what they compile), the tokenised data, and what an init
looks at before the first step. The batch is that of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import nn

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.init import inits
from lorakit.backbone.pair_texts import rows_of_nothing
from lorakit.backbone.quantised import quantised_modules
from lorakit.recipe.schema import AUTO, Recipe
from lorakit.searching.scoring import without_trace
from lorakit.training.optim import largest_step, optimizer_bytes
from lorakit.training.tail_average import average_bytes
from lorakit.training.trial_steps import may_change
from lorakit.training.update import chosen_updates
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.calibrate import MEASURES
from lorakit.workflow.parts import Parts
from lorakit.workflow.sharding import unit_bytes

SHORT = 4
"""Tokens of the shortest rows that are looked at."""
TOGETHER = 2
"""Layers that are whole at once where the weights are shared out."""
HOLES = 1.375
"""Resident memory of a step over that of its arrays: measured on MiniLM, 1.33 to 1.65 over batches, lengths, precisions and sites."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.bfloat16}
"""As wide as what is asked for: float16 is not computed everywhere."""


@dataclass(frozen=True)
class Kept:
    """Bytes as a polynomial: constant + rows (per_row + per_token tokens + per_pair tokens^2)."""

    constant: float
    per_row: float
    per_token: float
    per_pair: float

    def bytes(self, rows: int, tokens: int) -> float:
        """For so many rows of so many tokens."""
        return self.constant + rows * (self.per_row + self.per_token * tokens + self.per_pair * tokens**2)

    def __add__(self, other: Kept) -> Kept:
        """Both."""
        return Kept(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, share: float) -> Kept:
        """A share of it."""
        return Kept(*(share * mine for mine in astuple(self)))


@dataclass(frozen=True)
class Footprint:
    """Bytes: weights, the frozen ones and the trained; learning: gradients, what the optimiser keeps, and copies; step and evaluation:
    peaks; loading: all that there is while the weights are dense still, 0 where they never are.
    """

    weights: int
    learning: int
    step: float
    evaluation: float
    loading: int = 0

    @property
    def total(self) -> int:
        """The peak of the training, or of loading."""
        return max(int(self.weights + self.learning + max(self.step, self.evaluation)), self.loading)


@dataclass(frozen=True)
class Measured:
    """What a training takes beside its rows, and for each of them.

    weights and learning: as in ``Footprint``; dense: the largest quantised weight, made dense; tokens: of a row at full length; kept:
    what autograd keeps; made: bytes a row that are made on the way back; holes: malloc's factor; scored: bytes a row of an evaluation;
    least: bytes that are there for a moment whatever the rows, as what the optimiser makes; loading: as in ``Footprint``; processes:
    that share the rows of a step.
    """

    weights: int
    learning: int
    dense: int
    tokens: int
    kept: Kept
    made: int
    holes: float
    scored: int
    least: int = 0
    loading: int = 0
    processes: int = 1

    def at(self, rows: int, evaluated: int) -> Footprint:
        """With so many rows in a pass that keeps something, and so many in one of an evaluation."""
        step = self.holes * (self.kept.bytes(rows, self.tokens) + rows * self.made) + self.dense
        evaluation = self.dense + evaluated * self.scored
        return Footprint(self.weights, self.learning, max(step, self.least), evaluation, self.loading)

    def rows_at_once(self, recipe: Recipe) -> int:
        """Rows in the largest pass of one process that keeps something for the way back."""
        if passed_whole(recipe):
            return recipe.training.batch_size
        size, limit = -(-recipe.training.batch_size // self.processes), recipe.training.micro_tokens
        return size if limit is None else min(size, max(limit // self.tokens, 1))


def estimate_footprint(parts: Parts, adapted: AdaptedModel) -> Footprint:
    """What training the recipe takes, with every row at full length and every site on, as when sites are scored."""
    return footprint_of(parts.recipe, measure(parts, adapted))


def footprint_of(recipe: Recipe, measured: Measured) -> Footprint:
    """What training the recipe takes, by the numbers of its account."""
    return measured.at(measured.rows_at_once(recipe), recipe.evaluation.batch_size)


def measure(parts: Parts, adapted: AdaptedModel, fsdp: int = 1) -> Measured:
    """The numbers of the account, for the recipe's precision, attention and recomputing; fsdp: processes that share the model out.

    RecipeError for one that cannot be shared out.
    """
    recipe, anatomy = parts.recipe, parts.backbone.anatomy
    precision, tokens = recipe.training.precision, parts.max_length
    size = min(parts.backbone.model.dtype.itemsize, PRECISIONS[precision].itemsize)
    wide = size * max(max(site.out_features, site.in_features) for site in anatomy.sites)
    config = parts.backbone.model.config.get_text_config()
    table = 2 * 4 * getattr(config, "num_attention_heads", 0) * (config._attn_implementation == "eager")
    kept = measure_kept(adapted, precision)
    if recipe.training.gradient_checkpointing:
        kept = measure_kept(adapted, precision, recomputed=True) + kept * (1 / len(anatomy.layers))
    times = max([1, *(kind.times_a_row(kind.settings_from(given)) for kind, given in chosen_updates(recipe))])
    kept = replace(kept * times, constant=kept.constant)
    whole = recipe.training.gradient_checkpointing or this_process().device.type != "cpu"
    of_updates = [kind.step_bytes(adapted, kind.settings_from(given)) for kind, given in chosen_updates(recipe)]
    measured = Measured(
        weights=(weights := sum(tensor.nbytes for tensor in all_tensors(adapted.model))),
        learning=4 * sum(t.parameter.numel() for t in adapted.trained())
        + optimizer_bytes(adapted, recipe.training)
        + max(average_bytes(adapted, recipe), trial_bytes(adapted, recipe)),
        dense=max((4 * m.in_features * m.out_features for m in quantised_modules(adapted.model)), default=0),
        tokens=tokens,
        kept=kept,
        made=2 * tokens * wide * times,
        holes=1.0 if whole else HOLES,
        least=max([largest_step(adapted, recipe.training, this_process().device), *of_updates]),
        loading=loading_bytes(parts, adapted, weights),
        scored=tokens * (2 * wide + 3 * size * anatomy.hidden_size) + table * tokens**2,
    )
    return measured if fsdp == 1 else shared_out(measured, adapted, fsdp)


def trial_bytes(adapted: AdaptedModel, recipe: Recipe) -> int:
    """What is copied while a learning rate is found, to be put back."""
    return sum(tensor.nbytes for tensor in may_change(adapted)) if recipe.training.lr == AUTO else 0


def loading_bytes(parts: Parts, adapted: AdaptedModel, weights: int) -> int:
    """Of all ``weights`` with the quantised ones dense, where they are on this device before they are quantised; else 0.

    They are loaded by the CPU, and are on another device for a start that measures alone.
    """
    dense, measures = parts.backbone.dense_bytes, inits.get(parts.linear.init).needs in MEASURES
    if not dense or (this_process().device.type != "cpu" and not measures):
        return 0
    packed = sum(each.nbytes for module in quantised_modules(adapted.model) for each in module.buffers(recurse=False))
    return weights - packed + dense


def shared_out(measured: Measured, adapted: AdaptedModel, processes: int) -> Measured:
    """The account of one of the processes that share the frozen matrices out."""
    *layers, embedding, rest = unit_bytes(adapted)
    everything = sum(layers) + embedding + rest
    return replace(
        measured,
        weights=measured.weights - everything + -(-everything // processes),
        dense=sum(sorted(layers)[-TOGETHER:]) + rest,
        least=max(measured.least, 2 * embedding + rest),
        processes=processes,
    )


def passed_whole(recipe: Recipe) -> bool:
    """Whether a search or an update passes whole batches of its own, on every process: nothing makes these smaller."""
    searches = recipe.search.method != "none" and recipe.search.scoring == "separate"
    return searches or any(kind.passes_batches(kind.settings_from(given)) for kind, given in chosen_updates(recipe))


def frozen_bytes(adapted: AdaptedModel) -> int:
    """What the backbone is kept in, without its head and the adapters."""
    held = (*adapted.adapters.values(), *adapted.shared.values())
    own = {id(tensor) for module in held for tensor in all_tensors(module)}
    own |= {id(tensor.parameter) for tensor in adapted.trained()}
    return sum(tensor.nbytes for tensor in all_tensors(adapted.model) if id(tensor) not in own)


def all_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers, each once."""
    return [*model.parameters(), *model.buffers()]


def measure_kept(adapted: AdaptedModel, precision: str, *, recomputed: bool = False) -> Kept:
    """What autograd keeps of a forward pass in training, every site on; with ``recomputed`` where layers are, as they are set up to be.

    Nothing is left changed, no random number drawn. A model that cannot be computed in half precision here (DeBERTa) is counted in
    float32, which is more.
    """
    try:
        with without_trace(adapted, train_mode=True, seed=0), recomputing(adapted.model, recomputed):
            one, two = (count_bytes(adapted, precision, rows, SHORT) for rows in (1, 2))
            longer, longest = (count_bytes(adapted, precision, 1, times * SHORT) for times in (2, 3))
    except RuntimeError:
        if precision == "fp32":
            raise
        return measure_kept(adapted, "fp32", recomputed=recomputed)
    constant = 2 * one - two
    a, b, c = one - constant, longer - constant, longest - constant  # a row of 1, 2 and 3 times SHORT tokens
    per_pair = (a - 2 * b + c) / (2 * SHORT**2)
    per_token = (b - a) / SHORT - 3 * per_pair * SHORT
    return Kept(constant, a - per_token * SHORT - per_pair * SHORT**2, per_token, per_pair)


def count_bytes(adapted: AdaptedModel, precision: str, rows: int, tokens: int) -> int:
    """Bytes that autograd keeps of one forward pass, parameters and buffers apart; memory that tensors share counts once."""
    model: Any = adapted.model
    seen: dict[int, torch.UntypedStorage] = {
        p.untyped_storage().data_ptr(): p.untyped_storage() for p in all_tensors(model)
    }
    own = set(seen)

    def see(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage)  # held on to, so that no other takes its place
        return tensor

    device = next(model.parameters()).device
    ids = rows_of_nothing(model, rows, tokens, device)
    autocast = torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor), autocast:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return sum(storage.nbytes() for place, storage in seen.items() if place not in own)


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Layers that are set up to recompute do so, or do not."""
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = wanted  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]
