import pytest

from lorakit.errors import DataError
from lorakit.tasks.task import tasks


def test_the_chosen_metric_becomes_the_main_one():
    assert tasks.get("mrpc").with_metric("f1").metrics == ("f1", "accuracy")
    assert tasks.get("sst2").with_metric("matthews").metrics == ("matthews", "accuracy")
    assert tasks.get("stsb").with_metric(None) is tasks.get("stsb")


@pytest.mark.parametrize(
    ("task", "metric", "hint"),
    [("stsb", "accuracy", ""), ("mrpc", "pearson", ""), ("mnli", "f1", "macro_f1"), ("sst2", "acuracy", "'accuracy'")],
)
def test_a_metric_that_does_not_suit_is_refused(task, metric, hint):
    with pytest.raises(DataError) as caught:
        tasks.get(task).with_metric(metric)
    (problem,) = caught.value.problems
    assert problem.key == "task.metric"
    assert metric not in problem.valid.split(", ")
    assert hint in problem.hint + problem.valid
