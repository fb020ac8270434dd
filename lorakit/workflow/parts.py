"""What a recipe names, loaded: data, backbone, the sites that get adapters, their specs and the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.adapters.budget import Budget
from lorakit.adapters.counting import costs, shared_cost, spec_for
from lorakit.adapters.init import inits
from lorakit.adapters.method import Method, methods, resolve
from lorakit.adapters.spec import AdapterSpec
from lorakit.artifacts.experts import Expert
from lorakit.backbone.few_bits import Precision
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.readout import OWN, PAIR, READOUT_KEY, READOUTS
from lorakit.backbone.shared import SharedBackbone
from lorakit.backbone.site import Site
from lorakit.backbone.trained_head import output_bias
from lorakit.errors import RecipeError
from lorakit.recipe.schema import AUTO, Recipe, TaskSection
from lorakit.tasks.batching import Encoded, column_array, encode, label_array
from lorakit.tasks.class_weights import class_weights, label_weights
from lorakit.tasks.long_texts import Cut
from lorakit.tasks.plain_text import role_tokens
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import Task, TaskData
from lorakit.tasks.tokens import Progress
from lorakit.training.seeds import derive_seed

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

TELL_EVERY = 5  # seconds
UNDECIDED_SEED = 0
"""What a head is drawn from on which nothing may depend, while it is not decided which one the model gets."""

Features = NDArray[np.float32]


@dataclass
class Parts:
    """What a recipe names, loaded (``setup.assemble``); adapters are attached by ``setup.adapt``.

    features: read-out -> features (n, width) of training rows before any training, None where the model has none
    (``frozen_features``); strengths: read-out -> that of the best linear model of these, where it is known; sites: those that get adapters;
    ranks and options: site name -> rank, settings of its delta, where they are
    not its spec's; budget: what may be on at once; experts: the adapters of finished runs that a mixture starts with (``experts``).
    """

    recipe: Recipe
    data: TaskData
    backbone: Backbone
    sites: list[Site]
    linear: AdapterSpec
    shortcut: AdapterSpec
    budget: Budget
    ranks: dict[str, int] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    features: dict[str, Features | None] = field(default_factory=dict)
    strengths: dict[str, float] = field(default_factory=dict)
    experts: Sequence[Expert] = ()

    @property
    def method(self) -> Method:
        """The recipe's adapter method."""
        return methods.get(self.recipe.adapter.method)

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.data.task

    @property
    def costs(self) -> dict[str, int]:
        """Site name -> trained parameters of its own at its full rank."""
        return costs(self.sites, self.linear, self.shortcut, self.ranks, self.options)

    @property
    def shared_cost(self) -> int:
        """Trained parameters that sites have in common."""
        return shared_cost(self.sites, self.linear, self.shortcut, self.ranks)

    def rank_of(self, site: Site) -> int:
        """The rank the site has when it is on."""
        return self.ranks.get(site.name, spec_for(site, self.linear, self.shortcut).rank)

    def encode(self, *splits: str) -> dict[str, Encoded]:
        """The tokenised splits, with a word about rows that were cut."""
        return {split: encode_split(self.data, split, self.backbone, self.cut) for split in splits}

    @cached_property
    def class_weights(self) -> NDArray[np.float64] | None:
        """How much the rows of each class weigh in the loss (classes,), None where all count the same.

        Of several labels a row: how much those with a label weigh against those without it.
        """
        if self.task.regression:
            return None
        setting, rows = self.recipe.training.class_weights, self.data.splits["train"]
        if self.task.multi_label:
            return label_weights(setting, self.task.labels, label_array(rows))
        return class_weights(setting, self.task.labels, column_array(rows, "label"))

    @property
    def row_weights(self) -> NDArray[np.float64] | None:
        """Those of them that whole rows have, by which a step's loss is divided: none where a row has several labels."""
        return None if self.task.multi_label else self.class_weights

    @property
    def max_length(self) -> int:
        """Tokens a row keeps: the recipe's number, or what the model can take where that is less."""
        return self.cut.length

    @property
    def cut(self) -> Cut:
        """How much of each text is read."""
        return cut_of(self.recipe.task, self.backbone)


def load_data(recipe: Recipe, *, splits: Sequence[str] | None = None, learnt: Task | None = None) -> TaskData:
    """The recipe's task with its rows; splits and learnt: which of them, and by what labels, as ``load_task`` has it."""
    seed = derive_seed(recipe.run.seed, "data")
    return load_task(recipe.task, seed=seed, offline=recipe.run.offline, splits=splits, learnt=learnt)


def load_model(
    recipe: Recipe,
    task: Task,
    precisions: Mapping[str, Precision] | None = None,
    shared: SharedBackbone | None = None,
) -> Backbone:
    """The recipe's frozen backbone, with a new head for the task: the family's own where it is not decided yet.

    precisions: of mixed matrices, as a run keeps them; shared: with other models, whose heads are put in afterwards.

    RecipeError (key ``model.readout``) where the head would compare two texts, and the task has one.
    """
    if recipe.model.readout == PAIR and not task.pair:
        raise RecipeError(
            f"compares the two texts of a row, and the rows of {task.known_as} have one",
            key=READOUT_KEY,
            valid=", ".join([OWN, *(name for name in READOUTS if name != PAIR), AUTO]),
        )
    seed = UNDECIDED_SEED if recipe.model.readout == AUTO else recipe.run.seed
    return load_backbone(
        recipe.model,
        labels=task.labels,
        regression=task.regression,
        multi_label=task.multi_label,
        seed=derive_seed(seed, "init/head"),
        offline=recipe.run.offline,
        longest=recipe.task.max_length,
        quantise=not inits.get(resolve(recipe.adapter).init).quantises,
        precisions=precisions,
        shared=shared,
    )


@torch.no_grad()
def start_at_frequencies(backbone: Backbone, data: TaskData) -> None:
    """Give a new head for several labels a row the log-odds of each label as its bias, of the training rows.

    Else a training spends its first steps on learning that most labels are rare (Lin et al. 2017, section 4.1, start so with a guess).
    Of labels that no row or every row has, half a row is counted on the other side.
    """
    if not data.task.multi_label or backbone.head.kept or "train" not in data.splits:
        return
    bias = output_bias(backbone.model, backbone.new_parts)
    if bias is None:
        return
    labels = label_array(data.splits["train"])
    has = np.clip(labels.sum(axis=0), 0.5, max(len(labels) - 0.5, 0.5))
    bias.copy_(torch.from_numpy(np.log(has / (len(labels) - has))))


def cut_of(task: TaskSection, backbone: Backbone) -> Cut:
    """How much of each text a model is to read."""
    return Cut(backbone.longest_text(task.max_length), task.long)


def encode_split(data: TaskData, split: str, backbone: Backbone, cut: Cut) -> Encoded:
    """A tokenised split, with a word about rows that were cut, and about tokens with a role that are written in texts."""
    encoded, length = encode_rows(data.splits[split], backbone, cut, split, progress=report_progress(split)), cut.length
    if encoded.windows is not None:
        several = int(np.count_nonzero(np.diff(encoded.windows) > 1))
        logger.info("%s: %d of %d rows are read in windows of %d tokens", split, several, len(encoded), length)
    if encoded.truncated:
        most = ", the most that this model takes" if backbone.longest_text(length + 1) == length else ""
        logger.info("%s: %d of %d rows are cut to %d tokens%s", split, encoded.truncated, len(encoded), length, most)
    if encoded.special:
        logger.info(
            "%s: special tokens are written in the texts of %d rows (%s): they are read as plain text",
            split,
            encoded.special,
            " ".join(role_tokens(backbone.tokenizer)),
        )
    return encoded


def encode_rows(
    rows: Dataset, backbone: Backbone, cut: Cut, name: str = "", progress: Progress | None = None
) -> Encoded:
    """Rows tokenised and padded as the model needs it."""
    return encode(rows, backbone.tokenizer, cut, name, progress, backbone.padding)


def report_progress(split: str) -> Progress:
    """Says every few seconds how many rows are tokenised."""
    spoken = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > TELL_EVERY:
            spoken = time.monotonic()
            logger.info("%s: %s of %s rows tokenised", split, f"{done:,}", f"{total:,}")

    return tell
