"""``lorakit.open_adapters``: finished runs over one backbone that is in memory once, switched, and mixed within a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from lorakit.adapters.mixed_batch import MixedRows, given_states
from lorakit.artifacts.run import Run
from lorakit.backbone.readout import READOUTS, Readout
from lorakit.backbone.shared import SharedBackbone, bytes_beside, named_tensors
from lorakit.errors import UsageError, nearest
from lorakit.tasks.batching import WINDOW_OF, Batch, Encoded
from lorakit.tasks.new_texts import Text, is_blank
from lorakit.workflow.accelerator import this_process
from lorakit.workflow.one_backbone import check_one_backbone, named_runs, open_finished
from lorakit.workflow.predict import AHEAD, Classifier, Prediction
from lorakit.workflow.restore import restore_run

PROBE = ("one two three", "four five")
Answers = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Opened:
    """One of the runs: its classifier, and what its head reads, None for the family's own."""

    classifier: Classifier
    readout: Readout | None


class Adapters:
    """Runs over one backbone: each with its adapters, head, labels, temperature and maximal length.

    Attributes:
        using: the name of the one that answers where none is named; None: none is in use.

    ``model["A"]`` is the classifier of A, as ``lorakit.load`` gives it, with the same outputs bit for bit; its frozen tensors are those
    of all others. Not for several threads at once.
    """

    def __init__(self, runs: Mapping[str, Path], weights: str | None):
        self.weights = weights
        self.shared = SharedBackbone()
        self.opened: dict[str, Opened] = {}
        self.using: str | None = None
        self._mixed: MixedRows | None = None
        self._apart: dict[str, str] = {}
        found = {name: open_finished(path) for name, path in runs.items()}
        self.first, *others = found.values()
        """The run whose backbone it is, plugged in or not."""
        for run in others or [self.first]:
            check_one_backbone(self.first, run)
        for name, run in found.items():
            self._open(name, run)

    @property
    def names(self) -> list[str]:
        """The names of all adapters, in the order in which they were plugged in."""
        return [*self.opened]

    @property
    def model(self) -> Any:
        """The transformers model of the adapter in use; with none in use the pretrained one, without a head."""
        return self.shared.model.base_model if self.using is None else self[self.using].model

    def __getitem__(self, name: str) -> Classifier:
        """The classifier of this name. UsageError where there is none."""
        if name not in self.opened:
            valid = ", ".join(self.opened) or "none is plugged in"
            raise UsageError(f"there is no adapter '{name}'", valid=valid, hint=nearest(str(name), self.opened))
        return self.opened[name].classifier

    def use(self, name: str | None) -> Adapters:
        """Let this adapter answer, or none; nothing is loaded. UsageError for a name that there is not."""
        if name is not None:
            self[name]
        self.using = name
        return self

    def plug(self, run: str | Path, name: str | None = None) -> Adapters:
        """Add a finished run, by its folder's name where no other is given. What ``open_adapters`` refuses is refused here."""
        ((known, path),) = named_runs([run if name is None else {name: run}]).items()
        if known in self.opened:
            raise UsageError(f"an adapter is called {known} already", where=str(path), hint="another name")
        found = open_finished(path)
        check_one_backbone(self.first, found)
        self._open(known, found)
        return self

    def unplug(self, name: str) -> Adapters:
        """Forget an adapter, and its memory; the others and the backbone are as if it had never been there."""
        self[name]
        del self.opened[name]
        self._apart.pop(name, None)
        if self._mixed is not None:
            self._mixed.unplug(name)
        self.using = None if self.using == name else self.using
        return self

    def bytes_of(self, name: str) -> int:
        """What the tensors of an adapter and its head take."""
        return bytes_beside(self[name].model, self.shared.model)

    @property
    def backbone_bytes(self) -> int:
        """What the tensors of the backbone take, which are there once."""
        return sum({each.data_ptr(): each.nbytes for _, each in named_tensors(self.shared.model)}.values())

    def predict(
        self,
        texts: Text | Iterable[Text],
        batch_size: int = 32,
        *,
        adapter: str | Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Label texts, in order, by the adapter in use, by the one named, or each by its own of several that are named.

        Rows of several adapters share a forward pass of the backbone, to rounding as if each were alone, unless ``apart`` says otherwise.
        Raises UsageError where no adapter is in use, there is none of a name, or there are not as many names as texts.
        """
        if adapter is None or isinstance(adapter, str):
            name = self.using if adapter is None else adapter
            if name is None:
                raise UsageError(
                    "no adapter is in use", valid=", ".join(self.opened), hint="use(NAME), or adapter=NAME"
                )
            return self[name].predict(texts, batch_size)
        rows = [texts] if isinstance(texts, str) else list(texts)
        if len(adapter) != len(rows):
            what = f"{len(adapter)} adapters are named for {len(rows)} texts"
            raise UsageError(what, valid="one name for all texts, or one for each")
        answers = self.outputs(rows, adapter, batch_size)
        return [self[name].prediction(text, own) for name, text, own in zip(adapter, rows, answers, strict=True)]

    def outputs(self, texts: Sequence[Text], adapters: Sequence[str], batch_size: int = 32) -> Answers:
        """What each text's adapter says of it: its labels' probabilities (labels,), for regression the number (1,); NaN for blank texts."""
        if batch_size < 1:
            raise UsageError(f"there are no batches of {batch_size} rows", valid="1 or more")
        for place, (text, name) in enumerate(zip(texts, adapters, strict=True)):
            self[name].check([text], place)
        found: Answers = []
        for start in range(0, len(texts), AHEAD * batch_size):
            chunk = slice(start, start + AHEAD * batch_size)
            found += self._chunk(texts[chunk], adapters[chunk], batch_size)
        return found

    def apart(self, name: str) -> str:
        """Why rows of this adapter get a pass of their own in a batch of several; empty where they share one."""
        classifier = self[name]
        if name not in self._apart:
            self._apart[name] = self._plugged(name, classifier)
        return self._apart[name]

    def _open(self, name: str, run: Run) -> None:
        """Build the run's model on the tensors that all have in common."""
        restored = restore_run(run.path, self.weights, with_data=False, shared=self.shared)
        self.shared.model.to(this_process().device)
        recipe, task = restored.parts.recipe, restored.parts.task
        classifier = Classifier(
            restored.adapted, recipe, pair=task.pair, columns=task.text, temperature=restored.temperature
        )
        self.opened[name] = Opened(classifier, READOUTS.get(recipe.model.readout))

    def _plugged(self, name: str, classifier: Classifier) -> str:
        """Let the rows of this adapter share passes; why that cannot be, where it cannot."""
        readout = self.opened[name].readout
        if readout is not None and readout.apart:
            return "its head compares two texts that are encoded each by itself"
        if self._mixed is None:
            base = self.shared.another(self.shared.model.config).base_model
            self._mixed = MixedRows(base, layers_within(classifier))
        batch = classifier.encoded([PROBE if classifier.pair else PROBE[0]]).collate([0, 0])
        return self._mixed.plug(name, classifier.adapted, for_model(batch, classifier))

    def _chunk(self, texts: Sequence[Text], adapters: Sequence[str], batch_size: int) -> Answers:
        """``outputs`` of as many texts as are sorted by length together."""
        found = [np.full(len(self[name].labels), np.nan, np.float32) for name in adapters]
        places: dict[str, list[int]] = defaultdict(list)
        for place, (text, name) in enumerate(zip(texts, adapters, strict=True)):
            if not is_blank(text):
                places[name].append(place)
        sharing = [name for name in places if not self.apart(name)] if len(places) > 1 else []
        for name in [name for name in places if name not in sharing]:
            alone = self[name].outputs([texts[place] for place in places[name]], batch_size)
            for place, answer in zip(places[name], alone, strict=True):
                found[place] = answer
        encoded = {name: self[name].encoded([texts[place] for place in places[name]]) for name in sharing}
        rows = [(name, row) for name in sharing for row in range(len(places[name])) if encoded[name].lengths[row]]
        rows.sort(key=lambda each: -int(encoded[each[0]].lengths[each[1]]))
        for start in range(0, len(rows), batch_size):
            batch: dict[str, list[int]] = defaultdict(list)
            for name, row in rows[start : start + batch_size]:
                batch[name].append(row)
            for name, answers in self._pass({name: (encoded[name], own) for name, own in batch.items()}).items():
                for row, answer in zip(batch[name], answers, strict=True):
                    found[places[name][row]] = answer
        return found

    @torch.inference_mode()
    def _pass(self, wanted: Mapping[str, tuple[Encoded, list[int]]]) -> dict[str, NDArray[np.float32]]:
        """Adapter -> its answers (rows, labels), of one forward pass."""
        batches = {name: encoded.collate(rows) for name, (encoded, rows) in wanted.items()}
        if len(batches) == 1:
            return {name: self[name].computed(batch) for name, batch in batches.items()}
        assert self._mixed is not None
        padded = padded_alike(batches, next(iter(wanted.values()))[0])
        ends = np.cumsum([len(batch["input_ids"]) for batch in padded.values()]).tolist()
        rows = [(name, slice(start, end)) for name, start, end in zip(padded, [0, *ends], ends, strict=False)]
        classifier = self[rows[0][0]]
        deep = any((readout := self.opened[name].readout) is not None and readout.depth > 1 for name in padded)
        with classifier.objective.accelerator.autocast():
            output = self._mixed(for_model(joined(padded), classifier), rows, states=deep)
        found = {}
        for name, lines in rows:
            with given_states(self[name].model, output, lines):
                found[name] = self[name].computed(padded[name])
        return found


def layers_within(classifier: Classifier) -> list[str]:
    """Where the layers are in the base model."""
    base = classifier.model.base_model
    paths = {module: path for path, module in base.named_modules()}
    return [paths[layer] for _, layer in classifier.adapted.backbone.anatomy.layers if layer in paths]


def for_model(batch: Batch, classifier: Classifier) -> dict[str, torch.Tensor]:
    """What of a batch the base model reads, on its device."""
    device = classifier.objective.accelerator.device
    return {name: tensor.to(device) for name, tensor in batch.items() if name != WINDOW_OF}


def padded_alike(batches: Mapping[str, Batch], like: Encoded) -> dict[str, dict[str, torch.Tensor]]:
    """Batches padded to the length of the longest, as ``like`` pads."""
    length = max(batch["input_ids"].shape[1] for batch in batches.values())
    with_what = {"input_ids": like.pads[0], "attention_mask": 0, "token_type_ids": like.pads[1]}

    def longer(name: str, tensor: torch.Tensor) -> torch.Tensor:
        missing = length - tensor.shape[1] if name in with_what else 0
        return (
            pad(tensor, (missing, 0) if like.padding.left else (0, missing), value=with_what[name])
            if missing
            else tensor
        )

    return {of: {name: longer(name, each) for name, each in batch.items()} for of, batch in batches.items()}


def joined(batches: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Batches of one length as one; token types, where some have none, are 0 there, which is what a model takes them for."""
    names = {name for batch in batches.values() for name in batch if name != WINDOW_OF}
    return {
        name: torch.cat([batch.get(name, torch.zeros_like(batch["input_ids"])) for batch in batches.values()])
        for name in sorted(names)
    }


def open_adapters(*runs: str | Path | Mapping[str, str | Path], weights: str | None = None) -> Adapters:
    """Open finished runs over one backbone, which is in memory once.

    Args:
        runs: folders of runs on the same backbone, ``NAME=FOLDER``, or a mapping from names to folders; a folder alone is called by its
            own name. Any method will do; what a method trains of the model's own parameters is the run's own beside the backbone.
        weights: the ``last`` ones, or the ``best`` on the validation split; those that training.select of each run says by default.

    Returns:
        The adapters, none in use: ``use(NAME)``, ``predict(texts, adapter=...)``, ``plug`` and ``unplug``.

    Raises:
        UsageError: for runs on another backbone, or on quantised weights of their own choice; merged models; two of one name.
        RunError: for a run that is not finished, or whose files are damaged.

    Example:
        >>> model = lorakit.open_adapters("runs/films-0", "topics=runs/news-0")                     # doctest: +SKIP
        >>> model.use("topics").predict("rain in the north")[0].label                               # doctest: +SKIP
        >>> model.predict(["a quiet wonder", "rain in the north"], adapter=["films-0", "topics"])   # doctest: +SKIP
    """
    return Adapters(named_runs(runs), weights)
