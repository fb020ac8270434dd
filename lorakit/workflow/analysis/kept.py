"""What an update does to its own task and to others: how many held-out rows a linear probe of the features gets right.

    before     the features that the head would read, without the adapters
    after      the same with them
    random     the same with a Gaussian update of each one's norm and rank in their place

A probe is logistic regression, fitted anew in each state to the same training rows of a task, as ``model.head_start: fitted`` is. Biderman
et al. 2024 (LoRA Learns Less and Forgets Less, arXiv 2405.09673, section 4.3) set what a training learns beside what it forgets so, by
benchmarks that a language model answers; an encoder of texts answers none, and what it has kept is what can be read off its features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.adapted_model import digest_of as digest_of_tensors
from lorakit.artifacts.provenance import NOT_SHARED, digest_of, read_provenance
from lorakit.backbone.readout import MEAN, OWN, READOUTS
from lorakit.errors import RecipeError, UsageError
from lorakit.recipe.overlays import as_list
from lorakit.reporting.analysis.measures import random_update
from lorakit.reporting.analysis.records import Kept, SiteUpdate, TaskBeside, TaskKept
from lorakit.reporting.stats import paired_difference
from lorakit.tasks.baselines import answers
from lorakit.tasks.batching import Encoded
from lorakit.tasks.task import TaskData
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.analysis.drift import in_full_precision, without_adapters
from lorakit.workflow.analysis.probed import Probed, open_others, probed, same_task, why_not
from lorakit.workflow.analysis.updates import NOTHING, OFF
from lorakit.workflow.frozen_features import output_layer, read_features
from lorakit.workflow.parts import Parts, encode_rows
from lorakit.workflow.restore import RestoredRun

Answers = NDArray[np.int64]
ROWS = 2  # of a reader's key: the digests of its rows
SHORTCUTS = "shortcuts have no weight beneath"

RightRows = dict[tuple[object, ...], list[float]]
"""(name, digests of the rows) of a task -> 1 of each held-out row that is right with a run's update, else 0."""


class NoFeatures(Exception):
    """What a head reads cannot be told."""


@dataclass(frozen=True)
class Probes:
    """The other tasks; rows: of each and of a run's own, at most; before: what the probes of the backbone itself answer, once for all runs
    that read the same rows alike.
    """

    others: Sequence[Probed]
    rows: int
    before: dict[tuple[object, ...], Answers] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Sequence[str | Path], rows: int, *, offline: bool) -> Probes | None:
        """Those of the tasks that are named; None of none. UsageError, DataError or RecipeError for what cannot be probed."""
        if not named:
            return None
        return cls([probed(data, rows) for data in open_others(as_list(named), offline=offline)], rows)


@torch.no_grad()
def kept_of(
    restored: RestoredRun, probes: Probes, sites: Sequence[SiteUpdate], left_out: Mapping[str, Sequence[str]]
) -> tuple[Kept, RightRows]:
    """What a run's update does to its own task, the first where it can be probed, and to the others; and which rows are right with it.

    sites: the updates, whose norms and ranks random ones get; left_out: why other sites have none.
    """
    others, before = probes.others, probes.before
    own, without_own = own_task(restored.parts.data, probes.rows)
    same = [each.name for each in others if same_task(restored.parts.data, each.data)]
    weighed = [site for site in sites if site.weight_norm is not None]
    without_random, left = random_words(sites, weighed, left_out)
    chosen = [*([own] if own else []), *(each for each in others if each.name not in same)]
    try:
        with started_head(restored.adapted, restored.head):
            readers = [Reader.of(restored, each) for each in chosen]
            after = [reader.answers() for reader in readers]
            with without_adapters(restored.adapted):
                for reader in readers:
                    if reader.key not in before:
                        before[reader.key] = reader.answers()
                if without_random:
                    random: list[Answers | None] = [None] * len(readers)
                else:
                    with random_instead(restored.adapted, weighed):
                        random = [reader.answers() for reader in readers]
    except NoFeatures as error:
        return Kept([], str(error), without_own, same, without_random, left), {}
    trained, found, right = trained_texts(restored), [], {}
    for reader, later, drawn in zip(readers, after, random, strict=True):
        found.append(scored(reader, before[reader.key], later, drawn, trained, own=reader.probed is own))
        right[reader.probed.name, *reader.key[:ROWS]] = right_rows(reader, later)
    return Kept(found, "", without_own, same, without_random, left), right


def own_task(data: TaskData, rows: int) -> tuple[Probed | None, str]:
    """The rows of a run's own task; in words, why there are none."""
    if why := why_not(data.task):
        return None, why
    try:
        return probed(data, rows), ""
    except UsageError as error:
        return None, error.problems[0].what


def random_words(
    sites: Sequence[SiteUpdate], weighed: Sequence[SiteUpdate], left_out: Mapping[str, Sequence[str]]
) -> tuple[str, list[str]]:
    """Why there is no random update in the place of what was learnt; and what of that has none, where another part has."""
    left = [reason for reason in left_out if reason not in (OFF, NOTHING)] + [SHORTCUTS] * (len(sites) > len(weighed))
    return "" if weighed else "; ".join(left) or NOTHING, left if weighed else []


def trained_texts(restored: RestoredRun) -> NDArray[np.int64] | None:
    """Digests of the texts that the run's weights have seen; None where nothing tells."""
    provenance = read_provenance(restored.run.path)
    return None if provenance is None or provenance.told.get(NOT_SHARED) else provenance.trained


@dataclass(frozen=True)
class Reader:
    """A run's model before a task: the rows as it reads them, and what of its states; key: what the backbone's answers hang on."""

    parts: Parts
    probed: Probed
    readout: str
    rows: tuple[Encoded, Encoded]
    key: tuple[object, ...]

    @classmethod
    def of(cls, restored: RestoredRun, task: Probed) -> Reader:
        """The run's own readout; the mean of all tokens where that compares two texts, and a row has one. NoFeatures."""
        parts = replace(restored.parts, recipe=in_full_precision(restored.parts.recipe))
        model = parts.recipe.model
        apart = model.readout != OWN and READOUTS[model.readout].apart
        readout = MEAN if apart and not task.task.pair else model.readout
        beneath: dict[str, torch.Tensor] = {}
        if readout == OWN:
            try:
                outputs = output_layer(parts)[0]
            except RecipeError as error:
                raise NoFeatures(error.problems[0].what) from error
            beneath = {name: each for name, each in restored.head.items() if not name.startswith(f"{outputs}.")}
        train, held = (encode_rows(each, parts.backbone, parts.cut) for each in (task.train, task.held))
        rows = tuple(digest_of(each, task.task) for each in (task.train, task.held))
        key = (*rows, readout, parts.cut, model.attention, model.compute_dtype, digest_of_tensors(beneath))
        return cls(parts, task, readout, (train, held), key)

    def answers(self) -> Answers:
        """The classes (n,) that a probe fitted to the training rows' features now gives the held-out rows. NoFeatures."""
        found = [read_features(self.parts, each, [self.readout]).get(self.readout) for each in self.rows]
        fitted, asked = found
        if fitted is None or asked is None:
            raise NoFeatures("what its layers give is not of the texts' own tokens alone, as with virtual tokens")
        return answers(self.probed.task, fitted, self.probed.labels[0], asked)


@contextmanager
def started_head(adapted: AdaptedModel, start: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The model with its new parts as they started: what a family has before the output layer reads features the same in every state."""
    parts = {name: adapted.model.get_parameter(name).detach() for name in start}  # share memory with the model's
    trained = {name: part.clone() for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.copy_(start[name])
        yield
    finally:
        for name, part in parts.items():
            part.copy_(trained[name])


@contextmanager
def random_instead(adapted: AdaptedModel, sites: Sequence[SiteUpdate]) -> Iterator[None]:
    """The model with a Gaussian update of these norms and ranks at these sites, drawn from each one's place among them."""
    with ExitStack() as stack:
        for number, site in enumerate(sites):
            drawn = random_update(site.shape, site.rank, torch.Generator().manual_seed(number))
            added = AddedUpdate((site.norm * drawn).float().to(this_process().device))
            stack.callback(adapted.model.get_submodule(site.name).register_forward_hook(added).remove)
        yield


@dataclass(frozen=True)
class AddedUpdate:
    """Adds dW x to what a module gives for x; update: dW (out x in)."""

    update: torch.Tensor

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """W x + b + dW x (..., out)."""
        return output + F.linear(inputs[0].to(self.update.dtype), self.update).to(output.dtype)


def right_rows(reader: Reader, answers: Answers) -> list[float]:
    """1 of each held-out row whose answer is right, else 0."""
    return np.asarray(answers == reader.probed.labels[1], float).tolist()


def beside_each_other(first: RightRows, second: RightRows) -> list[TaskBeside]:
    """Of the tasks whose rows both runs have, how many more the second one gets right."""
    return [TaskBeside(str(key[0]), paired_difference(second[key], first[key])) for key in first if key in second]


def scored(
    reader: Reader,
    before: Answers,
    after: Answers,
    random: Answers | None,
    trained: NDArray[np.int64] | None,
    *,
    own: bool,
) -> TaskKept:
    """What the answers to a task's held-out rows come to. trained: digests of the texts that the run was trained on, where these are
    known.
    """
    task, (labels, references) = reader.probed, reader.probed.labels
    fitted, held = task.digests
    right = [right_rows(reader, each) for each in (before, after)]
    drawn = None if random is None else right_rows(reader, random)
    most = right_rows(reader, np.full_like(references, np.bincount(labels).argmax()))
    return TaskKept(
        name=task.name,
        own=own,
        classes=task.task.num_labels,
        readout=reader.readout,
        other_readout=reader.readout != reader.parts.recipe.model.readout,
        split=task.split,
        train_rows=len(labels),
        rows=len(references),
        majority=float(np.mean(most)),
        over_majority=paired_difference(right[0], most),
        unknown=int((~np.isin(references, labels)).sum()),
        repeated=int(np.isin(held, fitted).sum()),
        trained_on=None if trained is None else int(np.isin(held, trained).sum()),
        fitted_on=None if trained is None else int(np.isin(fitted, trained).sum()),
        before=float(np.mean(right[0])),
        after=float(np.mean(right[1])),
        change=paired_difference(right[1], right[0]),
        random=None if drawn is None else float(np.mean(drawn)),
        random_change=None if drawn is None else paired_difference(drawn, right[0]),
        beside_random=None if drawn is None else paired_difference(right[1], drawn),
    )
