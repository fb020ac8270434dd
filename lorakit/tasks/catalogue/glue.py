"""GLUE: nine tasks with the columns, label order and metrics of the benchmark (Wang et al., 2019, arXiv:1804.07461).

Columns and label ids are those of the hub data set ``nyu-mll/glue``. The first metric is the main one.
"""

from __future__ import annotations

from typing import Any

from lorakit.tasks.task import Task, tasks

ENTAILMENT = ("entailment", "not_entailment")
SENTENCES = ("sentence1", "sentence2")


def glue(name: str, title: str, text: tuple[str, ...], labels: tuple[str, ...], *metrics: str, **more: Any) -> None:
    """Register one GLUE task, which the hub knows as ``nyu-mll/glue`` with the same name."""
    task = Task(name, title, text, "label", labels, metrics, hub=("nyu-mll/glue", name), **more)
    tasks.register(task)


glue("cola", "is the sentence grammatical", ("sentence",), ("unacceptable", "acceptable"), "matthews", submission="id")
glue("sst2", "is the film review kind", ("sentence",), ("negative", "positive"), "accuracy", submission="id")
glue("mrpc", "do both say the same", SENTENCES, ("not_equivalent", "equivalent"), "accuracy", "f1", submission="id")
glue(
    "qqp",
    "do both questions ask the same",
    ("question1", "question2"),
    ("not_duplicate", "duplicate"),
    "accuracy",
    "f1",
    submission="id",
)
glue("stsb", "how alike are both, from 0 to 5", SENTENCES, (), "pearson", "spearman", submission="score")
glue(
    "mnli",
    "does the premise entail the hypothesis",
    ("premise", "hypothesis"),
    ("entailment", "neutral", "contradiction"),
    "accuracy",
    validation=("validation_matched", "validation_mismatched"),
    test=("test_matched", "test_mismatched"),
    submission="name",
)
glue(
    "qnli", "does the sentence answer the question", ("question", "sentence"), ENTAILMENT, "accuracy", submission="name"
)
glue("rte", "does the first entail the second", SENTENCES, ENTAILMENT, "accuracy", submission="name")
glue("wnli", "is the pronoun resolved rightly", SENTENCES, ENTAILMENT[::-1], "accuracy", submission="id")
