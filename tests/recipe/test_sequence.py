"""A recipe of several tasks: what each task's recipe is made of, and what is refused."""

from pathlib import Path

import pytest

from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe
from lorakit.recipe.sequence import find_sequence, load_sequence

MODEL = "model: {name: bundled:minilm}\nadapter: {rank: 2}\n"
TABLES = (
    "sequence:\n  one: {train: one.csv}\n  two: {train: two.csv, max_length: 8}\n"
    "task: {name: custom, max_length: 16, text: t, label: l}\n"
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def put(text: str, name: str = "topics.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return put


def test_named_tasks_share_what_the_file_says(write):
    loaded = load_sequence(write(TABLES + MODEL + "run: {seed: 3}\n"), ["training.lr=0.5", "continual.method=separate"])
    one, two = (task.recipe for task in loaded.tasks)
    assert loaded.names == [one.run.name, two.run.name] == ["one", "two"]
    assert (one.task.train, one.task.max_length) == ("one.csv", 16)
    assert (two.task.train, two.task.max_length) == ("two.csv", 8)
    assert (one.adapter.rank, one.training.lr, one.run.seed) == (two.adapter.rank, two.training.lr, 3) == (2, 0.5, 3)
    assert (loaded.name, loaded.seed, loaded.continual.method) == ("topics", 3, "separate")


def test_recipes_keep_what_the_file_does_not_say(write):
    base = MODEL + "task: {name: custom, train: x.csv, text: t, label: l}\ntraining: {epochs: 5, lr: 0.1}\n"
    write(base, "first.yaml")
    write("extends: first\nrun: {name: other}\ntraining: {lr: 0.2}\n", "second.yaml")
    loaded = load_sequence(write("sequence: [first, second.yaml]\ntraining: {epochs: 1}\n"))
    assert loaded.names == ["first", "other"]
    assert [task.recipe.training.lr for task in loaded.tasks] == [0.1, 0.2]
    assert [task.recipe.training.epochs for task in loaded.tasks] == [1, 1]


def test_a_file_that_is_written_down_gives_the_same_tasks(write, tmp_path):
    loaded = load_sequence(write(TABLES + MODEL))
    for name, task in zip(loaded.names, loaded.tasks, strict=True):
        write(task.to_yaml(), f"1-{name}.yaml")
    again = load_sequence(write(loaded.to_yaml([f"1-{name}.yaml" for name in loaded.names]), "again.yaml"))
    assert [task.recipe for task in again.tasks] == [task.recipe for task in loaded.tasks]
    assert (again.name, again.continual, again.names) == (loaded.name, loaded.continual, loaded.names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sequence: [demo]\n", r"topics.yaml:1: sequence: has one task, and nothing is learnt after it"),
        ("sequence: [demo, demo]\n", r"names the task demo twice(?s:.*)run.name"),
        ("sequence: [demo, dmo]\n", r"there is no recipe 'dmo'(?s:.*)did you mean 'demo'"),
        ("sequence: 3\n", r"is the number 3(?s:.*)a list of recipes, or a mapping"),
        ("sequence: [demo, {train: x}]\n", r"has a mapping \(KEY: VALUE\) in it"),
        ("sequence: [demo, auto]\nextends: demo\n", r"extends: says what one recipe is built on"),
        ("continual: {metod: replay}\nsequence: [demo, auto]\n", r"no key 'metod'(?s:.*)did you mean 'method'"),
        ("continual: {method: seperate}\nsequence: [demo, auto]\n", r"did you mean 'separate'"),
        ("sequence: {a: {trian: x.csv}, b: {train: y.csv}}\nadaptor: {}\n", r"adaptor(?s:.*)no key 'trian'"),
        ("sequence: {a: {train: x.csv}, b/c: {train: y.csv}}\n", r"'b/c' cannot be a task's name"),
    ],
)
def test_what_is_wrong_is_told(write, text, said):
    with pytest.raises(RecipeError, match=said):
        load_sequence(write(text))


def test_the_whole_section_may_be_given_beside_the_file(write):
    path = write(TABLES + MODEL)
    assert load_sequence(path, ["continual={method: replay, memory: 7}"]).continual.memory == 7
    with pytest.raises(RecipeError, match="continual: is the text 'replay'") as caught:
        load_sequence(path, ["continual=replay"])
    assert [problem.hint for problem in caught.value.problems] == ["continual.method=replay"]
    with pytest.raises(RecipeError, match="continual: is a list"):
        load_sequence(path, ["continual=[replay]"])
    with pytest.raises(RecipeError, match="has no key 'continual'"):
        load_sequence(path, ["continual.continual=replay"])


def test_a_second_sequence_in_a_file_is_told(write):
    with pytest.raises(RecipeError, match=r"topics\.yaml:7: sequence: is given twice"):
        load_sequence(write(TABLES + MODEL + "sequence: [other.yaml]\n"))


def test_what_is_wrong_with_several_tasks_is_told_at_once(write):
    with pytest.raises(RecipeError) as caught:
        load_sequence(write(TABLES + MODEL), ["training.epochs=0", "continual.x=1"])
    with pytest.raises(RecipeError) as later:
        load_sequence(write(MODEL + TABLES.replace("two.csv", "two.csv, label: [x]")))
    assert {"training.epochs", "continual.x"} == {problem.key for problem in caught.value.problems}
    assert "task.label" in {problem.key for problem in later.value.problems}


def test_one_recipe_is_told_from_a_sequence(write):
    path = write(TABLES + MODEL)
    assert find_sequence(path) == path
    assert find_sequence(str(path)) == path
    assert find_sequence("topics") == Path("topics.yaml")
    assert find_sequence(path.parent) is None
    assert find_sequence("demo") is None
    assert find_sequence("reviews.csv") is None
    with pytest.raises(RecipeError, match=r"topics.yaml:1: sequence: makes a sequence of tasks(?s:.*)lorakit train"):
        load_recipe(path)
