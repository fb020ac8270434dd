"""What a run was made of: its rows, told by digests, the base model's weights, and some rows for later proofs.

data.json tells people and later commands; data_rows.safetensors has a digest of each text, for what two runs have in common;
proof_rows.jsonl has some validation texts, on which `merge` and `export` prove themselves when the files are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from lorakit.artifacts.files import read_jsonl, write_bytes, write_json, write_jsonl
from lorakit.artifacts.records import number, read_record, reading, words
from lorakit.errors import RunError
from lorakit.tasks.task import Task, TaskData, named_labels

if TYPE_CHECKING:
    from datasets import Dataset

DATA, ROWS, PROOF = "data.json", "data_rows.safetensors", "proof_rows.jsonl"
NOT_SHARED = "rows_left_out"
"""The entry of data.json that says that digests of rows stayed with the run's owner."""
PROOF_ROWS = 64
LONGEST = 20_000  # characters that are kept of a proof's text
CHUNK = 10_000  # rows

Digests = NDArray[np.int64]


@dataclass(frozen=True)
class Provenance:
    """told: data.json, which may say that the rest stayed with the run's owner; trained, held_out: digests (n,) of the texts that the
    weights have seen, and of the validation rows, each once and sorted; own: those of this run's own training rows alone; proof: the
    columns of some validation rows, a row each.
    """

    told: Mapping[str, Any]
    trained: Digests
    own: Digests
    held_out: Digests
    proof: list[dict[str, str]]

    def write(self, folder: Path) -> None:
        """Into a run's folder."""
        write_json(folder / DATA, self.told)
        write_bytes(folder / ROWS, save({"trained": self.trained, "own": self.own, "held_out": self.held_out}))
        write_jsonl(folder / PROOF, self.proof)


def provenance_of(data: TaskData, base: Mapping[str, str], seen: Digests | None = None) -> Provenance:
    """base: the digest of each of the base model's weight files; seen: digests of texts that the weights the run starts from saw."""
    texts = {name: text_digests(split) for name, split in data.splits.items()}
    held = [texts[name] for name in data.task.validation if name in texts]
    none = np.empty(0, np.int64)
    earlier = none if seen is None else seen
    own = np.unique(texts.get("train", none))
    trained = np.union1d(own, earlier)
    held_out = np.unique(np.concatenate([none, *held]))
    told = {
        "origin": data.origin,
        "labels": [*data.task.labels],
        "text": [*data.task.text],
        "label": data.task.label,
        "splits": {name: describe(data, name) for name in data.splits},
        "base": dict(base),
        "seen": int(np.count_nonzero(leaked(held_out, own, earlier))),
    }
    proof: list[dict[str, str]] = []
    if held:
        split = data.splits[next(name for name in data.task.validation if name in texts)]
        columns = [name for name in ("text", "text_pair") if name in split.column_names]
        rows = split.select(range(min(PROOF_ROWS, len(split)))).select_columns(columns)
        proof = [{name: str(text)[:LONGEST] for name, text in row.items()} for row in rows.to_list()]
    return Provenance(told, trained, own, held_out, proof)


def leaked(held_out: Digests, own: Digests, others: Digests) -> NDArray[np.bool_]:
    """Which held-out texts (n,) are among ``others``; what the run's own training rows repeat is not counted."""
    return np.isin(held_out, others) & ~np.isin(held_out, own)


def describe(data: TaskData, name: str) -> dict[str, Any]:
    """What a split was: rows, classes, the file, and digests of both."""
    split, task = data.splits[name], data.task
    source = source_of(data, name)
    told: dict[str, Any] = {"rows": len(split), "digest": digest_of(split, task)}
    if "label" in split.column_names and not task.regression:
        ids = np.asarray(split.with_format("numpy")["label"][:], np.int64)
        counts = ids.sum(axis=0) if task.multi_label else np.bincount(ids, minlength=len(task.labels))
        told["classes"] = dict(zip(task.labels, counts.tolist(), strict=True))
    if source is not None:
        told |= {"file": source.name, "file_digest": source.digest()}
    return told


def source_of(data: TaskData, name: str) -> Any:
    """The files that a split's rows are in; None for a task of the catalogue."""
    return data.sources.get(name) or (data.sources.get("train") if name in data.task.validation else None)


def digest_of(split: Dataset, task: Task) -> str:
    """The sha256 of a split: its texts and label names, in order."""
    whole = hashlib.sha256()
    for texts, label in rows_of(split):
        whole.update(repr((texts, named(task, label))).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def named(task: Task, label: Any) -> Any:
    """A row's label by its name, several as a tuple; a number as it is; None where there is none."""
    if label is None or task.regression:
        return label
    if task.multi_label:
        return tuple(named_labels(task, label))
    return task.labels[label]


def text_digests(split: Dataset) -> Digests:
    """A digest (n,) of each row's texts, whatever its label."""
    digests = [
        hashlib.blake2b(repr(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for texts, _ in rows_of(split)
    ]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def rows_of(split: Dataset) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The texts and the label of each row; None where there is none."""
    columns = [name for name in ("text", "text_pair") if name in split.column_names]
    labelled = "label" in split.column_names
    for chunk in split.iter(CHUNK):
        texts = zip(*(chunk[name] for name in columns), strict=True)
        labels = chunk["label"] if labelled else [None] * len(chunk[columns[0]])
        yield from zip(texts, labels, strict=True)


def read_provenance(folder: Path) -> Provenance | None:
    """What the run in ``folder`` was made of; None for one of an older version. RunError where it is damaged."""
    if not (folder / DATA).is_file():
        return None
    told = read_record(folder / DATA, "what a run was made of")
    with reading(folder / DATA, "what a run was made of"):
        words(told["labels"], "labels")
        number(told["seen"], "seen", low=0, whole=True)
        for split in told["splits"].values():
            number(split["rows"], "rows", low=0, whole=True)
            if not isinstance(split["digest"], str):
                raise ValueError("a digest is text")
        if not all(isinstance(text, str) for text in told["base"].values()):
            raise ValueError("base names no digests")
    if told.get(NOT_SHARED) is True:
        none = np.empty(0, np.int64)
        return Provenance(told, none, none, none, [])
    with reading(folder / ROWS, "digests of rows"):
        try:
            arrays = load((folder / ROWS).read_bytes())
        except Exception as error:  # safetensors has its own kinds
            raise ValueError(error) from None
        digests = {name: arrays[name] for name in ("trained", "own", "held_out")}
        if any(each.dtype != np.int64 or each.ndim != 1 for each in digests.values()):
            raise ValueError("digests are whole numbers of 64 bits")
    proof = read_jsonl(folder / PROOF)
    for row in proof:
        if not isinstance(row, dict) or not all(isinstance(text, str) for text in row.values()) or "text" not in row:
            raise RunError("holds what is no text", where=str(folder / PROOF))
    return Provenance(told, **digests, proof=proof)
