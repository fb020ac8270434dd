"""What must hold between the keys of a recipe."""

import dataclasses

import pytest
import yaml

CUSTOM = "model: {name: bundled:minilm}\ntask:\n  name: custom\n"

RULES = [
    ("search:\n  enable: 0.25\n  uniform_rank: 2", "mine.yaml:5", "search.uniform_rank", "search.enable is given at mine.yaml:4"),
    ("search:\n  parameters: 9\n  enable: 0.5", "mine.yaml:4", "search.parameters", "search.enable is given at mine.yaml:5"),
    ("search: {uniform_rank: 9}", "mine.yaml:3", "search.uniform_rank", "rank 9 everywhere is more than all sites have at rank 8"),
    ("search: {parameters: 9, unit: modules}", "mine.yaml:3", "search.parameters", "but search.unit is modules"),
    ("search: {uniform_rank: 2, preset: paper}", "mine.yaml:3", "search.uniform_rank", "but search.unit is modules"),
    ("search: {method: heterolora}\nadapter:\n  allocation: {a: 8}", "mine.yaml:5", "adapter.allocation",
     "gives the ranks that search.method 'heterolora' (mine.yaml:3) is to find"),
    ("adapter:\n  lr_ratio: 16\n  trainable: B", "mine.yaml:4", "adapter.lr_ratio", "does not train both: it has no effect"),
    ("adapter: {lr_ratio: 4, method: lora_fa}", "mine.yaml:3", "adapter.lr_ratio", "does not train both: it has no effect"),
    ("adapter:\n  method: lora_plus\n  trainable: B", "mine.yaml:5", "adapter.trainable", "it has no effect"),
    ("search: {method: heterolora, warmup: 0.6, tail: 0.4}", "mine.yaml:3", "search.tail", "nothing of the training is left to search in"),
    ("search: {method: adalora, preset: best}", "mine.yaml:3", "search.preset", "settings of heterolora, and search.method is adalora"),
    ("search:\n  options: {beta1: 0.9}", "mine.yaml:4", "search.options", "has no effect: there is no search"),
    ("adapter: {targets: []}", "mine.yaml:3", "adapter.targets", "nothing would be adapted"),
    ("training:\n  focal_gamma: 1", "mine.yaml:4", "training.focal_gamma", "has no effect: the loss is cross_entropy"),
    ("training:\n  early_stopping: {min_delta: 1}", "mine.yaml:4", "training.early_stopping", "says no patience"),
    ("training:\n  early_stopping: {patience: 1.5}", "mine.yaml:4", "training.early_stopping", "1.5 is no number of evaluations"),
    ("training:\n  early_stopping:\n    patience: 1\n    delta: 0", "mine.yaml:6", "training.early_stopping", "no setting 'delta'"),
    ("training: {average_of: factors}", "mine.yaml:3", "training.average_of", "has no effect: nothing is averaged"),
    ("training: {freeze_cache: 1}", "mine.yaml:3", "training.freeze_cache", "has no effect: no layers are frozen"),
    ("training: {freeze_below: 2, cuda_graphs: true}", "mine.yaml:3", "training.cuda_graphs", "cannot read stored states"),
    ("training: {freeze_below: auto}\nadapter: {shortcuts: [res1]}", "mine.yaml:4", "adapter.shortcuts", "cuts the lower ones off"),
    ("training: {freeze_below: some}", "mine.yaml:3", "training.freeze_below", "wants a whole number"),
    ("training: {loss: focal, label_smoothing: 0.1}", "mine.yaml:3", "training.label_smoothing", "is for cross_entropy"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "key", "what"), RULES)
def test_keys_that_do_not_go_together(mistakes, text, where, key, what):
    (problem,) = mistakes(text)
    assert (problem.where, problem.key) == (where, key)
    assert what in problem.what
    assert problem.valid


@pytest.mark.parametrize(
    "text",
    [
        "adapter: {lr_ratio: 16, trainable: A+B}",
        "adapter: {lr_ratio: 1, trainable: B}",
        "adapter: {targets: [], shortcuts: [res1]}",
        "adapter: {allocation: {a.b: 8}}",
        "adapter: {rank: 4, shortcut_rank: 8}\nsearch: {uniform_rank: 6}",
        "search: {enable: 0.25, uniform_rank: null}",
        "search: {method: heterolora, preset: best, warmup: 0.2}",
        "search: {preset: best}",
        "training: {loss: focal, focal_gamma: 0.5, class_weights: {bad: 2.5, '1': 4.0}}",
        "training: {early_stopping: {patience: 2, min_delta: 0.01}, select: best}",
        "training: {label_smoothing: 0.1, class_weights: balanced}",
    ],
)
def test_keys_that_do_go_together(load, text):
    given = yaml.safe_load(text)
    recipe = dataclasses.asdict(load(text).recipe)
    for section, values in given.items():
        assert {key: recipe[section][key] for key in values} == values


def test_the_pooling_of_windows_is_for_windows(load, mistakes):
    (problem,) = mistakes("", "task.window_pooling=max")
    assert (problem.key, problem.valid) == ("task.window_pooling", "task.long: windows")
    assert load("", "task.window_pooling=max", "task.long=windows").recipe.task.window_pooling == "max"


def test_a_custom_task_says_where_its_data_are(mistakes):
    problems = mistakes("", head=CUSTOM)
    assert [(problem.where, problem.key) for problem in problems] == [
        ("mine.yaml:2", "task.train"),
        ("mine.yaml:2", "task.text"),
        ("mine.yaml:2", "task.label"),
    ]
    assert problems[0].valid == (
        "a csv, tsv, json, jsonl or parquet file, packed or not, a folder of them, a saved data set, or hub:OWNER/NAME"
    )


FULL = CUSTOM + "  train: a.csv\n  text: t\n  label: y\n"  # lines 4, 5 and 6


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("text_pair: t", "task.text_pair", "is column 't', which is also task.text"),
        ("text_pair: y", "task.label", "is column 'y', which is also task.text_pair"),
        ("labels: [only]", "task.labels", "a single label"),
        ("{regression: true, labels: [a, b]}", "task.labels", "the label is a number"),
        ("{validation: b.csv, validation_fraction: 0.2}", "task.validation_fraction", "task.validation names the rows"),
        ("{validation: b.csv, split_seed: 2}", "task.split_seed", "task.validation names the rows"),
        ("data: hub", "task.data", "has no effect on a custom task"),
        ("{regression: true, multi_label: true}", "task.multi_label", "cannot be true with task.regression"),
        ("{multi_label: true, ordered: true}", "task.ordered", "cannot be true with task.multi_label"),
        ("{label: null, label_columns: [a, b]}", "task.label_columns", "is for several labels a row"),
        ("label_separator: ;", "task.label_separator", "is for several labels a row"),
        ("{multi_label: true, label_columns: [a, b]}", "task.label", "task.label_columns names the labels"),
        ("{multi_label: true, label: null, label_columns: [a]}", "task.label_columns", "is a single label"),
        (
            "{multi_label: true, label: null, label_columns: [a, t]}",
            "task.text",
            "is column 't', which is also a label",
        ),
    ],
)
def test_a_custom_task_that_contradicts_itself(mistakes, text, key, what):
    overrides = [f"task={text}"] if text.startswith("{") else [f"task.{text}".replace(": ", "=")]
    (problem,) = mistakes("", *overrides, head=FULL)
    assert problem.key == key
    assert what in problem.what


def test_label_columns_take_the_place_of_a_label(load):
    task = load("", "task={multi_label: true, label: null, label_columns: [a, b]}", head=FULL).recipe.task
    assert (task.label, task.label_columns) == (None, ["a", "b"])


def test_a_custom_task_with_numbers_as_labels_and_names(load):
    task = load('  labels: [0, 1, "no"]\n  text_pair: 2\n', head=FULL).recipe.task
    assert task.labels == ["0", "1", "no"]
    assert task.text_pair == "2"


def test_custom_keys_of_another_task(mistakes):
    problems = mistakes("", "task.train=a.csv", "task.labels=[a,b]", "task.regression=true")
    assert [problem.key for problem in problems] == ["task.train", "task.labels", "task.regression"]
    assert problems[0].what == "is for a custom task only, and the task is 'mrpc' (mine.yaml:2)"
    assert {problem.hint for problem in problems} == {"task.name: custom"}


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("double_quant: true", "model.double_quant"),
        ("quantization: int8, double_quant: true", "model.double_quant"),
        ("compute_dtype: bfloat16", "model.compute_dtype"),
        ("quantization: int4, double_quant: true", "model.double_quant"),
        ("quantization: nf4, quantization_group: 64", "model.quantization_group"),
        ("quantization: int4, quantization_group: 33", "model.quantization_group"),
        ("quantization: int4, quantization_group: 0", "model.quantization_group"),
    ],
)
def test_settings_of_quantised_weights_need_some(mistakes, load, settings, key):
    head = "model: {name: bundled:minilm, %s}\ntask: {name: mrpc}\n"
    (problem,) = mistakes(head=head % settings)
    assert problem.key == key
    load(head=head % "quantization: nf4, double_quant: true, compute_dtype: bfloat16")
    load(head=head % "quantization: int4, quantization_group: 64, compute_dtype: bfloat16")
