from lorakit.tasks.task import tasks


def test_labels_and_source():
    task = tasks.get("rotten_tomatoes")
    assert task.labels == ("negative", "positive")
    assert task.bundled
    assert not task.submission
