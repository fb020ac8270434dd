import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task

FEATURES = Features(
    {"sentence": Value("string"), "label": ClassLabel(names=["unacceptable", "acceptable"]), "idx": Value("int32")}
)


def rows(labels):
    columns = {"sentence": [f"s{i}" for i in range(len(labels))], "label": labels, "idx": list(range(len(labels)))}
    return Dataset.from_dict(columns, features=FEATURES)


def test_the_hub_is_asked_for_the_benchmark(online):
    calls = online(DatasetDict(train=rows([1, 0]), validation=rows([1]), test=rows([-1, -1])))
    data = load_task(TaskSection(name="cola"), seed=0)
    assert calls == [("nyu-mll/glue", "cola")]
    assert data.splits["train"].to_list() == [
        {"text": "s0", "label": 1, "idx": 0},
        {"text": "s1", "label": 0, "idx": 1},
    ]
    assert data.splits["test"].column_names == ["text", "idx"]
    assert "nyu-mll/glue/cola" in data.origin


def test_hub_goes_before_the_folder_of_the_environment(online, monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(tmp_path))
    calls = online(DatasetDict(train=rows([1, 0]), validation=rows([1])))
    load_task(TaskSection(name="cola", data="hub"), seed=0)
    assert len(calls) == 1


def test_a_failing_hub_is_one_message(online):
    online(ConnectionError("Couldn't reach the Hub\nand more"))
    with pytest.raises(DataError) as caught:
        load_task(TaskSection(name="cola"), seed=0)
    (problem,) = caught.value.problems
    assert problem.what == "nyu-mll/glue/cola could not be loaded from the Hugging Face hub: Couldn't reach the Hub"
    assert problem.key == "task.data"


def test_a_split_that_the_hub_lacks_is_told(online):
    online(DatasetDict(train=rows([1, 0])))
    with pytest.raises(DataError, match="has no split 'validation'"):
        load_task(TaskSection(name="cola"), seed=0)


@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_never_asks_the_hub(online, monkeypatch, how):
    calls = online(DatasetDict())
    if how != "argument":
        monkeypatch.setenv(how, "1")
    with pytest.raises(DataError, match="this is an offline run") as caught:
        load_task(TaskSection(name="cola"), seed=0, offline=how == "argument")
    assert calls == []
    assert "task.data=FOLDER" in caught.value.problems[0].hint
