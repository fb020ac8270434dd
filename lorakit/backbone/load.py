"""Load the backbone of a recipe: the frozen model with its new head, its tokenizer and its anatomy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from lorakit.backbone.adapted_folder import VARIANT, is_closed, longest_row
from lorakit.backbone.anatomy import Anatomy
from lorakit.backbone.config_and_tokenizer import (
    attention_for,
    check_embeddings,
    configure,
    first_line,
    fit_inputs,
    read_config,
    read_tokenizer,
)
from lorakit.backbone.few_bits import Precision
from lorakit.backbone.head import embedding_weight, find_new_parts, train_new_parts
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.backbone.padding import padding_note, prepare_padding
from lorakit.backbone.positions import position_limit
from lorakit.backbone.quantised import MIXED, NONE, Quantisation, check_installed, named_linears, quantise_sites
from lorakit.backbone.readout import HEADS, READOUT_KEY, READOUTS, Readout, read_out
from lorakit.backbone.rope_scaling import scale_positions
from lorakit.backbone.shared import SharedBackbone
from lorakit.backbone.trained_head import NEW, Outputs, TrainedHead, settle_head
from lorakit.backbone.unusable import refuse_half_precision, refuse_unusable
from lorakit.errors import LorakitError, RecipeError, RunError, nearest
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.batching import Padding

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Backbone:
    """A pretrained model, ready to be adapted."""

    model: Any
    """A transformers sequence classifier in eval mode, every parameter frozen except the new parts."""
    tokenizer: Any
    """Pads on the side that the head needs, with a token that no text ends with."""
    anatomy: Anatomy
    """The adaptable sites."""
    new_parts: list[str]
    """Names of the parameters that are newly initialised or belong to the head: they train, and are saved with the adapter."""
    name: str
    """As the recipe says it."""
    notes: list[str] = field(default_factory=list)
    """What a person should know about the loading, a sentence each."""
    head: TrainedHead = field(default_factory=TrainedHead)
    """What became of the head that the checkpoint brought."""
    folder: Path = Path()
    """Where its files are."""
    padding: Padding = field(default_factory=Padding)
    """How the rows of a batch are padded."""
    to_quantise: Quantisation | None = None
    """How its projections are to be quantised when adapters are attached; None where nothing is left to do."""
    dense_bytes: int = 0
    """Of the projections, where all of them are dense before any is quantised."""

    def longest_text(self, wanted: int) -> int:
        """Tokens a text may keep: ``wanted``, or what the tokenizer or the model's positions allow where that is less."""
        positions = position_limit(self.model)
        unit = self.padding.multiple
        room = wanted if positions is None else (positions - self.padding.spare) // unit * unit
        return min(wanted, int(self.tokenizer.model_max_length), room)


def load_backbone(
    section: ModelSection,
    *,
    labels: tuple[str, ...],
    regression: bool,
    seed: int,
    offline: bool = False,
    merged: bool = False,
    multi_label: bool = False,
    quantise: bool = True,
    longest: int | None = None,
    precisions: Mapping[str, Precision] | None = None,
    shared: SharedBackbone | None = None,
) -> Backbone:
    """Load ``section.name`` as a classifier over ``labels``, or with one output for regression; multi_label: each label is there or
    not by itself.

    merged: whether it may be a merged folder with shortcuts, which the caller wires in; quantise: whether to do at once what the
    section says of that, or leave it until adapters are attached, for a start that quantises (``Init.quantises``); longest: tokens of
    the longest row, where known; precisions: of mixed matrices, by site, where they are known; shared: what other models on the same
    weights have in common with it: its head is to be put in afterwards.

    The weights come in ``section.dtype``; the new parts are float32 in any case, because they train. What is newly
    initialised depends on ``seed`` alone, and the global random state is left as it was. Raises RecipeError or RunError with
    the key of the recipe entry at fault, mostly ``model.name``.
    """
    if section.dtype not in DTYPES:
        hint = nearest(section.dtype, DTYPES)
        raise RecipeError(f"there is no dtype '{section.dtype}'", key="model.dtype", valid=", ".join(DTYPES), hint=hint)
    if section.quantization != NONE:
        check_installed(section.quantization)
    folder = find_checkpoint(section, offline=offline, merged=merged)
    # The files are here by now: only code that a model borrows from another repository may still need the network.
    local = offline or not section.trust_remote_code
    options: dict[str, Any] = {"trust_remote_code": section.trust_remote_code, "local_files_only": local}
    with quiet_transformers():
        config = read_config(folder, section, options)
        refuse_unusable(config, section.name)
        refuse_half_precision(config, section.dtype)
        read = partial(read_tokenizer, folder, section, config, options)
        tokenizer = read() if shared is None else shared.tokenizer(read)
        tokenizer.model_max_length = longest_row(folder, tokenizer.model_max_length)
        sparse = getattr(config, "attention_type", None) == "block_sparse"
        had = Outputs.of(config)
        configure(config, labels, regression, multi_label)
        scaled = scale_positions(config, tokenizer, section.rope_scaling, longest)
        attention = attention_for(config, section.attention)
        how = quantisation_of(section, precisions or {})
        on_the_way = quantise and section.quantization != MIXED  # which bits, all matrices decide together
        now, later = (how, None) if on_the_way else (None, how)
        weights = partial(from_files, folder, config, section, attention, now, seed, options)
        model, info = weights() if shared is None else shared.model_for(config, weights)
    refuse_unusable(config, section.name)
    readout = READOUTS.get(section.readout)
    check_readout(info["unexpected_keys"], readout, section.name)
    if readout is not None:
        with seeded(seed):
            dropped = read_out(model, readout, tokenizer, section.name)
        brought = load_own_head(model, readout.head, folder)
        missing = {*info["missing_keys"], *(() if brought else (f"{readout.head}.weight", f"{readout.head}.bias"))}
        info = {
            "missing_keys": missing.difference(dropped),
            "mismatched_keys": [found for found in info["mismatched_keys"] if found[0] not in dropped],
        }
    anatomy = Anatomy(model)
    new = find_new_parts(model, anatomy, info, section.name)
    if shared is not None:
        shared.check_own(model, new.names)
    with seeded(seed):
        start = section if shared is None else replace(section, head=NEW)
        head = settle_head(model, new, had, () if regression else labels, start)
    train_new_parts(model, new.names)
    table = embedding_weight(model)
    rows = getattr(config, "vocab_size", sys.maxsize) if table is None else len(table)  # CANINE has any: it hashes
    check_embeddings(tokenizer, rows, section.name)
    fit_inputs(tokenizer, model)
    padding = prepare_padding(tokenizer, model.config, rows)
    notes = list(filter(None, [padding_note(config), scaled]))
    if sparse:
        notes.append(
            f"{config.model_type} models attend to all tokens here: sparse attention depends on the texts before"
        )
    if attention != section.attention:
        notes.append(f"{config.model_type} models have no {section.attention} attention in transformers: eager is used")
    if head.note and not head.loud:
        notes.append(head.note)
    if now is not None:
        notes.append(quantise_sites(model, anatomy, now))
    dense = 0
    if later is not None:
        linears = set(named_linears(model, anatomy).values())  # there must be some
        later.check_bits(linears)
        dense = sum(module.weight.nbytes for module in linears)
        until = "all are loaded" if quantise else "adapters are attached"
        notes.append(f"the projections are dense, {dense / 2**20:.1f} MiB, until {until}")
        if quantise:
            notes.append(quantise_sites(model, anatomy, later.settled(model, anatomy, {})))
            later = None
    return Backbone(
        model.eval(), tokenizer, anatomy, new.names, section.name, notes, head, folder, padding, later, dense
    )


def from_files(
    folder: Path,
    config: Any,
    section: ModelSection,
    attention: str,
    now: Quantisation | None,
    seed: int,
    options: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """What transformers loads, quantised on the way where ``now`` says so, and what it says of it."""
    from lorakit.backbone.streamed import QuantisedOnTheWay, stored_as, weights_read  # seconds of transformers

    if now is not None:
        options = {**options, "quantization_config": QuantisedOnTheWay(now.quantise)}
    try:
        as_stored = now is None and stored_as(folder, DTYPES[section.dtype])
        with seeded(seed), contextlib.nullcontext() if as_stored else weights_read():
            loaded: tuple[Any, dict[str, Any]] = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[section.dtype],
                attn_implementation=attention,
                use_safetensors=True,
                variant=VARIANT if is_closed(folder) else None,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except LorakitError:
        raise
    except Exception as error:
        raise weights_error(error, folder, section) from error
    return loaded


def quantisation_of(section: ModelSection, precisions: Mapping[str, Precision]) -> Quantisation | None:
    """How the recipe quantises weights, mixed ones to these ``precisions`` where they are known; None where it does not."""
    if section.quantization == NONE:
        return None
    compute = None if section.compute_dtype is None else DTYPES[section.compute_dtype]
    return Quantisation(
        section.quantization,
        section.double_quant,
        compute,
        section.quantization_group,
        bits=section.quantization_bits,
        precisions=precisions,
    )


def check_readout(unexpected: Iterable[str], readout: Readout | None, name: str) -> None:
    """Raise RecipeError (key ``model.readout``) where a merged folder's head reads another thing than the recipe says."""
    brought = next((HEADS[head] for key in unexpected if (head := key.partition(".")[0]) in HEADS), None)
    if brought is not None and brought is not readout:
        what = f"the head of '{name}' reads {brought.told}"
        raise RecipeError(what, key=READOUT_KEY, valid=brought.name, hint=f"{READOUT_KEY}={brought.name}")


def load_own_head(model: Any, head: str, folder: Path) -> bool:
    """Put in the head of this name that a merged folder brings; whether it does."""
    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob(f"model.{VARIANT}*.safetensors")) if is_closed(folder) else ():
        with safe_open(file, "pt") as tensors:
            found = {f"{head}.{name}": name for name in ("weight", "bias")}
            state |= {found[key]: tensors.get_tensor(key) for key in set(tensors.keys()) & set(found)}
    if state:
        getattr(model, head).load_state_dict(state)
    return bool(state)


def weights_error(error: Exception, folder: Path, section: ModelSection) -> LorakitError:
    """Why the weights could not be loaded: an attention that is not there, or a file that is not whole."""
    text = first_line(error)
    if "attn_implementation" in str(error) or "flash" in text.lower():
        what = f"{section.attention} attention cannot be used here: {text}"
        return RecipeError(
            what, key="model.attention", valid="sdpa, eager, flash_attention_2", hint="eager always works"
        )
    return RunError(
        f"the weights of '{section.name}' in {folder} cannot be loaded: {text}",
        key="model.name",
        hint="the files may be damaged or incomplete: fetch them again",
    )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU generator seeded, then put back as it was; no other device's generator is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back what transformers says while it loads: what is new, and why, is told by lorakit."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
