"""Data sets of the library datasets, saved or on the hub, with any columns and the class names they come with."""

import json
import logging
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks import stored_rows
from lorakit.tasks.data_sets import find_data_set
from lorakit.tasks.sources import load_task

NAMES = ["World", "Sports", "Business"]


def made(labels, start=0):
    features = Features({"news": {"title": Value("string"), "n": Value("int32")}, "topic": ClassLabel(names=NAMES)})
    news = [{"title": f"t{start + i}", "n": i} for i in range(len(labels))]
    return Dataset.from_dict({"news": news, "topic": labels}, features=features)


SPLITS = DatasetDict(train=made([0, 2, 0]), validation=made([2, 0], 10), test=made([-1, -1], 20))


def load(train, offline=True, **more):
    section = TaskSection(name="custom", train=str(train), **({"text": "news.title", "label": "topic"} | more))
    return load_task(section, seed=0, offline=offline)


def problem_of(*args, **more):
    with pytest.raises(DataError) as caught:
        load(*args, **more)
    return caught.value.problems[0]


@pytest.fixture(params=["memory", "cache"])
def saved(request, tmp_path, monkeypatch):
    """A data set of three splits on disk."""
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "cache":
        monkeypatch.setattr(stored_rows, "LARGE", 1)
    SPLITS.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_data_set_is_read_with_its_splits(saved, caplog):
    caplog.set_level(logging.INFO, logger="lorakit")
    for _ in range(2):
        data = load(saved)
        assert data.task.labels == tuple(NAMES)
        assert data.splits["train"].to_list() == [
            {"text": "t0", "label": 0, "idx": 0},
            {"text": "t1", "label": 2, "idx": 1},
            {"text": "t2", "label": 0, "idx": 2},
        ]
        assert [(row["text"], row["label"]) for row in data.splits["validation"]] == [("t10", 2), ("t11", 0)]
        assert data.splits["test"].to_list() == [{"text": "t20", "idx": 0}, {"text": "t21", "idx": 1}]
    assert f"{saved}: its split 'validation' is the validation rows" in caplog.messages
    assert f"{saved}: its split 'test' is the test rows" in caplog.messages


def test_what_the_recipe_names_goes_before_the_splits(saved, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="lorakit")
    other = tmp_path / "a.csv"
    other.write_text("news.title,topic\nx,Sports\ny,2\n")
    data = load(saved, validation=str(other), test=str(saved / "train"))
    assert [(row["text"], row["label"]) for row in data.splits["validation"]] == [("x", 1), ("y", 2)]
    assert data.splits["test"]["label"][:] == [0, 2, 0]
    assert not [message for message in caplog.messages if "its split" in message]


def test_one_saved_split_is_a_split(saved):
    data = load(saved / "train", validation_fraction=0.4)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 2, "validation": 1}
    assert load(saved / "train", validation=str(saved)).splits["validation"]["text"][:] == ["t10", "t11"]


def test_a_share_to_hold_out_beside_validation_rows_is_told(saved):
    problem = problem_of(saved, validation_fraction=0.4)
    assert problem.key == "task.validation_fraction"
    assert f"{saved} validation holds the validation rows" in problem.what


def test_a_saved_data_set_without_the_split_names_those_it_has(tmp_path):
    DatasetDict(all=made([0, 1])).save_to_disk(str(tmp_path / "saved"))
    problem = problem_of(tmp_path / "saved")
    assert (problem.key, problem.valid) == ("task.train", "all")
    assert problem.what == f"{tmp_path / 'saved'} has no split 'train'"
    assert problem.hint == f"task.train={tmp_path / 'saved'}/all"
    assert load(tmp_path / "saved" / "all", validation_fraction=0.5).splits["train"].num_rows == 1


@pytest.mark.parametrize("damage", ["dataset_info.json", "state.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\0" * 100])
def test_a_damaged_data_set_is_told(tmp_path, damage, content):
    made([0, 1]).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / damage).write_bytes(content)
    problem = problem_of(tmp_path / "saved")
    assert "not a readable data set of the library datasets: " in problem.what
    assert (problem.where, problem.key) == (str(tmp_path / "saved"), "task.train")


def test_a_damaged_row_is_told_with_its_split(saved):
    problem = problem_of(saved, text="news")
    assert problem.where == f"{saved} train"
    assert problem.what.startswith("column 'news' holds a dict where text is needed")
    assert problem.hint == "name what is inside of it, such as news.title"
    problem = problem_of(saved, text="news.titel")
    assert problem.hint == "did you mean 'news.title'?"
    assert problem.valid == "news, topic, news.title, news.n"


def test_the_hub_is_asked_by_name(online, caplog):
    caplog.set_level(logging.INFO, logger="lorakit")
    calls = online(SPLITS)
    data = load("hub:fancyzhx/ag_news", offline=False)
    assert calls == [("fancyzhx/ag_news",)]
    assert data.origin.startswith("hub:fancyzhx/ag_news; hub:fancyzhx/ag_news: its split")
    assert data.task.labels == tuple(NAMES)
    assert {name: rows["text"][:] for name, rows in data.splits.items()} == {
        "train": ["t0", "t1", "t2"],
        "validation": ["t10", "t11"],
        "test": ["t20", "t21"],
    }
    assert "hub:fancyzhx/ag_news: its split 'validation' is the validation rows" in caplog.messages


@pytest.mark.parametrize(
    ("named", "asked", "rows"),
    [
        ("hub:imdb", ("imdb",), ["t0", "t1", "t2"]),
        ("hub:a/b:c-1.2", ("a/b", "c-1.2"), ["t0", "t1", "t2"]),
        ("hub:a/b@validation", ("a/b",), ["t10", "t11"]),
        ("hub:a/b:c@validation", ("a/b", "c"), ["t10", "t11"]),
    ],
)
def test_configuration_and_split_are_part_of_the_name(online, named, asked, rows):
    calls = online(SPLITS)
    data = load(named, validation=named, offline=False)
    assert calls == [asked] * 2
    assert data.splits["train"]["text"][:] == rows


def test_a_named_split_brings_no_others(online):
    online(SPLITS)
    data = load("hub:a/b@train", offline=False)
    assert sorted(data.splits) == ["train", "validation"]
    assert sorted(data.splits["train"]["text"][:] + data.splits["validation"]["text"][:]) == ["t0", "t1", "t2"]


@pytest.mark.parametrize("named", ["hub:", "hub:a/b/c", "hub:a b", "hub:a/b@", "hub:a/b:", "hub:a/b@x@y", "hub:../x/y"])
def test_a_name_that_is_none_is_told(online, named):
    calls = online(SPLITS)
    problem = problem_of(named, offline=False)
    assert problem.key == "task.train"
    assert problem.valid == "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG, and either with @SPLIT"
    assert calls == []


def test_a_split_that_the_hub_lacks_is_told(online):
    online(SPLITS)
    problem = problem_of("hub:a/b:c@dev", offline=False)
    assert problem.what == "hub:a/b:c has no split 'dev'"
    assert (problem.valid, problem.hint) == ("train, validation, test", "task.train=hub:a/b:c@train")


def test_a_failing_hub_is_one_message(online):
    online(ConnectionError("Couldn't reach the Hub\nand more"))
    problem = problem_of("hub:a/b", offline=False)
    assert problem.what == "a/b could not be loaded from the Hugging Face hub: Couldn't reach the Hub"
    assert problem.key == "task.train"
    online(ValueError("Config name is missing.\nPlease pick one among the available configs: ['x', 'y']\nExample"))
    assert problem_of("hub:a/b", offline=False).hint == "Please pick one among the available configs: ['x', 'y']"


@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_offline_never_asks_the_hub(online, monkeypatch, tmp_path, how, key):
    calls = online(SPLITS)
    if how != "argument":
        monkeypatch.setenv(how, "1")
    (tmp_path / "a.csv").write_text("news.title,topic\na,World\nb,Sports\n")
    problem = problem_of(**{"train": tmp_path / "a.csv", key: "hub:a/b"}, offline=how == "argument")
    assert problem.what == "a/b is on the Hugging Face hub, and this is an offline run"
    assert problem.key == f"task.{key}"
    assert f"task.{key}=FOLDER/FILES" in problem.hint
    assert calls == []


def test_a_folder_that_the_library_would_take_for_the_hub_is_refused(online, tmp_path, monkeypatch):
    calls = online(SPLITS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert "would read the folder a/b that is here" in problem_of("hub:a/b", offline=False).what
    assert calls == []


def parquet(path, names, values, kind="ClassLabel", text="text", **columns):
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": names, "_type": kind}}
    schema = pa.schema([(text, pa.string()), ("label", columns.get("type", pa.int64()))])
    table = pa.table({text: [f"t{i}" for i in range(len(values))], "label": values}, schema=schema)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(columns.get("metadata", metadata)), path)
    return path


def of_parquet(path, **more):
    return load(path, text="text", label="label", validation=str(path), **more)


def labels_of(data):
    return [data.task.labels[i] if data.task.labels else i for i in data.splits["train"]["label"][:]]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["neg", "pos"], ["pos", "neg"]),
        (["b", "a", "never met"], ["a", "b"]),
        (["1", "0"], ["0", "1"]),
        (["True", "False"], ["False", "True"]),
        (["1.0", "2.0"], ["2", "1"]),
    ],
)
def test_class_names_of_parquet_are_the_labels_in_their_order(tmp_path, names, labels):
    data = of_parquet(parquet(tmp_path / "a.parquet", names, [1, 0]))
    assert labels_of(data) == labels
    assert data.splits["train"]["label"][:] == [1, 0]
    assert len(data.task.labels) == len(names)


def test_class_names_survive_the_cache_and_packing(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE_DIR", str(tmp_path / "cache"))
    parquet(tmp_path / "a.parquet", ["b", "a"], [0, 1, None])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "a.parquet")
    monkeypatch.setattr(stored_rows, "LARGE", 1)
    for name in ("a.parquet", "a.zip", "a.parquet"):
        assert (
            problem_of(tmp_path / name, text="text", label="label").what
            == "1 row has no label in column 'label' (row 3)"
        )
    parquet(tmp_path / "a.parquet", ["b", "a"], [0, 1, 1])
    for _ in range(2):
        assert of_parquet(tmp_path / "a.parquet").task.labels == ("b", "a")


def test_another_file_may_have_the_names_or_the_ids_of_the_classes(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["neg", "pos"], [0, 1])
    for content in ("text,label\na,pos\nb,neg\n", "text,label\na,1\nb,0.0\n"):
        (tmp_path / "b.csv").write_text(content)
        data = load(path, text="text", label="label", validation=str(tmp_path / "b.csv"))
        assert data.splits["validation"]["label"][:] == [1, 0]
    other = parquet(tmp_path / "c.parquet", ["pos", "neg"], [0, 1])
    data = load(path, text="text", label="label", validation=str(other))
    assert data.splits["validation"]["label"][:] == [1, 0]


def test_class_names_give_way_to_those_of_the_recipe(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["neg", "pos"], [0, 1, 1])
    assert labels_of(of_parquet(path, labels=["bad", "good"])) == ["bad", "good", "good"]
    assert of_parquet(path, labels=["pos", "neg"]).splits["train"]["label"][:] == [1, 0, 0]
    problem = problem_of(parquet(path, ["neg", "pos", "odd"], [0, 1, 2]), text="text", label="label", labels=["x", "y"])
    assert "label 'odd' is not one of the 2 labels" in problem.what
    assert problem.valid == "neg (x), pos (y)"


def test_class_numbers_may_be_numbers_to_predict(tmp_path):
    assert labels_of(of_parquet(parquet(tmp_path / "a.parquet", ["1 star", "2 stars"], [0, 1]), regression=True)) == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("names", "values", "says"),
    [
        (["neg", "pos"], [0, 7], "label '7' is not one of the 2 labels (row 2)"),
        (["neg", "pos"], [0, -2], "label '-2' is not one of the 2 labels (row 2)"),
        (["neg", "pos"], [0, -1, 1], "1 row has no label in column 'label' (row 2)"),
        (["True", "true"], [0, 1], "all labels in column 'label' are the same"),
        (["a", "True", "true"], [0, 1], "two classes of column 'label' have one name: a, True, true"),
        (["", "pos"], [0, 1, 1], "all labels in column 'label' are the same"),
    ],
)
def test_classes_that_cannot_be_are_told(tmp_path, names, values, says):
    assert says in problem_of(parquet(tmp_path / "a.parquet", names, values), text="text", label="label").what


@pytest.mark.parametrize(
    "metadata",
    [{}, {"huggingface": "{"}, {"huggingface": "[]"}, {"huggingface": '{"info": {"features": {"label": 5}}}'},
     {"huggingface": '{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, 2]}}}}'},
     {"huggingface": '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'}, {"huggingface": "[" * 10_000}],
)  # fmt: skip
def test_metadata_of_another_make_are_left_aside(tmp_path, metadata):
    path = parquet(tmp_path / "a.parquet", [], [0, 1], metadata=metadata)
    assert labels_of(of_parquet(path)) == ["0", "1"]


def test_inner_columns_of_parquet_have_dots(tmp_path):
    news = pa.array(
        [{"title": "a", "by": {"name": "x"}}, None, {"title": None, "by": None}, {"title": "d", "by": {"name": "y"}}]
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"news": news, "news.label": ["no", "yes", "no", "yes"]}), path)
    problem = problem_of(path, text="news.title", label="news.label")
    assert problem.what == "2 rows have no text in column 'news.title' (rows 2, 3)"
    pq.write_table(pa.table({"news": news, "news.label": ["no", "yes", "no", "yes"]}).take([0, 3]), path)
    data = load(path, text="news.title", label="news.by.name", validation=str(path))
    assert [(row["text"], row["label"]) for row in data.splits["train"]] == [("a", 0), ("d", 1)]
    assert load(path, text="news.title", label="news.label", validation=str(path)).task.labels == ("no", "yes")
    assert (
        problem_of(path, text="news.by", label="news.label").hint == "name what is inside of it, such as news.by.name"
    )


@pytest.mark.parametrize(
    ("key", "told"), [("task.train", "then task.train=FOLDER/FILES"), ("", "then FOLDER/FILES in")]
)
def test_offline_a_copy_is_named_as_the_data_was(key, told):
    with pytest.raises(DataError) as caught:
        find_data_set("hub:a/b", key, offline=True)
    assert told in caught.value.problems[0].hint
