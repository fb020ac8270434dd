from dataclasses import replace

import pytest

from lorakit.errors import DataError, RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.own_data import epochs, is_data, length, write_own_data


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{row},a film of number {row},{'good' if row % 3 else 'bad'}\n" for row in range(30))
    (tmp_path / "reviews.csv").write_text("id,review,verdict\n" + rows)
    return tmp_path / "reviews.csv"


def test_a_file_of_texts_and_labels_is_a_recipe(reviews):
    loaded = load_recipe("reviews.csv")
    recipe = loaded.recipe
    task = recipe.task
    assert (task.name, task.train, task.text, task.text_pair, task.label) == (
        "custom",
        "reviews.csv",
        "review",
        None,
        "verdict",
    )
    assert (recipe.model.name, recipe.adapter.method, recipe.adapter.targets) == ("bundled:minilm", "lora", ["all"])
    assert (recipe.search.method, recipe.adapter.shortcuts) == ("none", [])
    assert recipe.run.name == loaded.name == "reviews"
    assert loaded.told == [
        "reviews.csv: texts: 'review'",
        "reviews.csv: labels: 'verdict'",
        "reviews.csv: not used: 'id'",
    ]
    assert loaded.where("task.text") == "made for reviews.csv"


def test_key_value_wins_and_given_columns_are_not_guessed(reviews):
    loaded = load_recipe("reviews.csv", ["task.text=verdict", "task.label=review", "training.epochs=1", "model.name=x"])
    assert (loaded.recipe.task.text, loaded.recipe.task.label) == ("verdict", "review")
    assert (loaded.recipe.training.epochs, loaded.recipe.model.name) == (1, "x")
    assert loaded.told == []


def test_the_recipe_that_is_written_down_is_the_one_that_trains(reviews):
    text, _ = write_own_data("reviews.csv", {})
    (reviews.parent / "mine.yaml").write_text(text)
    assert load_recipe("mine.yaml").recipe == load_recipe("reviews.csv").recipe


def test_a_name_with_quotes_and_colons_stays_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f'"a text, {row}",{row % 2}\n' for row in range(8))
    (tmp_path / 'my: "first" # file.csv').write_text("the: 'text',y\n" + rows)
    task = load_recipe('my: "first" # file.csv').recipe.task
    assert (task.train, task.text, task.label) == ('my: "first" # file.csv', "the: 'text'", "y")


def test_mistakes_are_told_before_the_data_is_read(reviews):
    with pytest.raises(RecipeError, match=r"training\.lrr"):
        load_recipe("reviews.csv", ["training.lrr=1"])
    with pytest.raises(DataError, match="there is no file gone"):
        load_recipe("gone.csv")
    with pytest.raises(DataError, match="no column 'nothing'"):
        load_recipe("reviews.csv", ["task.label=nothing"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("reviews.csv", True), ("gone.tsv.gz", True), ("a.zip", True), ("hub:fancyzhx/ag_news", True)),
        *(("shards", True), ("a.parquet", True), ("texts.txt", True), ("shards/*.csv", True)),
        *(("demo", False), ("mine.yaml", False), ("empty", False), ("a.txt", False), ("runs", False), ("", False)),
    ],
)
def test_data_is_told_from_recipes_by_its_name(reviews, name, expected):
    folder = reviews.parent
    for made in ("shards", "empty", "runs"):
        (folder / made).mkdir()
    (folder / "texts.txt").write_text("a text\n")
    (folder / "shards" / "a-0.csv").write_text("text,label\n")
    (folder / "runs" / "recipe.yaml").write_text("")
    assert is_data(name) is expected


def test_text_files_have_no_labels_to_learn(reviews):
    (reviews.parent / "texts.txt").write_text("a text\n")
    with pytest.raises(DataError, match="a text file has no labels"):
        load_recipe("texts.txt")


@pytest.mark.parametrize(("rows", "expected"), [(20, 10), (400, 4), (1000, 3), (4000, 3), (10**6, 2)])
def test_few_rows_are_seen_more_often(rows, expected):
    assert epochs(rows) == expected


@pytest.mark.parametrize(("characters", "expected"), [(10, 64), (224, 64), (225, 128), (10**6, 512)])
def test_texts_of_usual_length_are_kept_whole(characters, expected):
    assert length(characters) == expected


def test_what_is_said_of_the_labels_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(
        "text,rude,angry\n" + "".join(f"a text of number {i},{i % 2},{i % 3 // 2}\n" for i in range(12))
    )
    with pytest.raises(DataError) as caught:
        load_recipe("a.csv")
    assert "'task.label_columns=[rude, angry]'" in caught.value.problems[0].hint
    task = load_recipe("a.csv", ["task.multi_label=true", "task.label_columns=[rude, angry]"]).recipe.task
    assert (task.text, task.label, task.label_columns) == ("text", None, ["rude", "angry"])
    task = load_recipe("a.csv", ["task.label=angry", "task.regression=true"]).recipe.task
    assert (task.regression, task.metric) == (True, None)


def test_it_chooses_what_the_recipe_auto_does(reviews):
    """But for how often few rows are seen."""
    own, auto = (
        load_recipe("reviews.csv").recipe,
        load_recipe("auto", ["model.name=bundled:minilm", "task.name=mrpc"]).recipe,
    )
    assert (own.model, own.adapter, own.search) == (auto.model, auto.adapter, auto.search)
    assert replace(own.training, epochs=auto.training.epochs) == auto.training
