"""What a recipe names, loaded: data, backbone, the sites that get adapters, their specs and the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.adapters.budget import Budget
from lorakit.adapters.counting import costs, shared_cost, spec_for
from lorakit.adapters.method import Method, methods
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.load import Backbone, load_backbone
from lorakit.backbone.site import Site
from lorakit.recipe.schema import Recipe
from lorakit.tasks.batching import Encoded, encode
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import Task, TaskData
from lorakit.tasks.tokens import Progress
from lorakit.training.seeds import derive_seed

logger = logging.getLogger(__name__)

TELL_EVERY = 5  # seconds


@dataclass
class Parts:
    """What a recipe names, loaded (``setup.assemble``); adapters are attached by ``setup.adapt``.

    sites: those that get adapters; ranks and options: site name -> rank, settings of its delta, where they are not its spec's;
    budget: what may be on at once.
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
        return {split: encode_split(self.data, split, self.backbone, self.max_length) for split in splits}

    @property
    def max_length(self) -> int:
        """Tokens a row keeps: the recipe's number, or what the model can take where that is less."""
        return self.backbone.longest_text(self.recipe.task.max_length)


def load_data(recipe: Recipe, *, splits: Sequence[str] | None = None, learnt: Task | None = None) -> TaskData:
    """The recipe's task with its rows; splits and learnt: which of them, and by what labels, as ``load_task`` has it."""
    seed = derive_seed(recipe.run.seed, "data")
    return load_task(recipe.task, seed=seed, offline=recipe.run.offline, splits=splits, learnt=learnt)


def load_model(recipe: Recipe, task: Task) -> Backbone:
    """The recipe's frozen backbone, with a new head for the task."""
    return load_backbone(
        recipe.model,
        labels=task.labels,
        regression=task.regression,
        seed=derive_seed(recipe.run.seed, "init/head"),
        offline=recipe.run.offline,
    )


def encode_split(data: TaskData, split: str, backbone: Backbone, length: int) -> Encoded:
    """A tokenised split, with a word about rows that were cut."""
    encoded = encode(data.splits[split], backbone.tokenizer, length, split, progress=report_progress(split))
    if encoded.truncated:
        logger.info("%s: %d of %d rows are cut to %d tokens", split, encoded.truncated, len(encoded), length)
    return encoded


def report_progress(split: str) -> Progress:
    """Says every few seconds how many rows are tokenised."""
    spoken = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > TELL_EVERY:
            spoken = time.monotonic()
            logger.info("%s: %s of %s rows tokenised", split, f"{done:,}", f"{total:,}")

    return tell
