"""GLUE's catalogue against the benchmark's published facts."""

import subprocess
import sys

import pytest

from lorakit.tasks.task import higher_is_better, tasks

# Features of the hub data set nyu-mll/glue, and the metrics of Wang et al. 2019, table 1.
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
    "sst2": (("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "stsb": (("sentence1", "sentence2"), (), ("pearson", "spearman")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
}


@pytest.mark.parametrize("name", GLUE)
def test_a_task_has_the_columns_labels_and_metrics_of_the_benchmark(name):
    task = tasks.get(name)
    assert (task.text, task.labels, task.metrics) == GLUE[name]
    assert (task.name, task.label, task.hub) == (name, "label", ("nyu-mll/glue", name))
    assert task.pair == (len(task.text) == 2)
    assert task.regression == (name == "stsb")
    assert task.num_labels == {"stsb": 1, "mnli": 3}.get(name, 2)


def test_mnli_validates_on_both_its_sets():
    task = tasks.get("mnli")
    assert task.validation == ("validation_matched", "validation_mismatched")
    assert task.test == ("test_matched", "test_mismatched")


def test_the_list_of_tasks_needs_no_heavy_import():
    code = "import sys; from lorakit.tasks.task import tasks; tasks.names(); print({'torch', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_only_mse_is_better_when_smaller():
    metrics = ("accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman", "mse")
    assert [name for name in metrics if not higher_is_better(name)] == ["mse"]
