"""Every mistake: one message with its place, its key, what is valid, and what to try."""

from pathlib import Path

import pytest

from lorakit.errors import RecipeError
from lorakit.recipe.load import load_recipe

KEYS = [
    ("adapter:\n  rnak: 8", "mine.yaml:4", "adapter.rnak", "did you mean 'rank'?"),
    ("adapter:\n  r: 8", "mine.yaml:4", "adapter.r", "did you mean 'rank'?"),
    ("adapter:\n  target_modules: [q]", "mine.yaml:4", "adapter.target_modules", "did you mean 'targets'?"),
    ("adapter:\n  lr: 1e-3", "mine.yaml:4", "adapter.lr", "did you mean 'training.lr'?"),
    ("training:\n  Learning-Rate: 1e-3", "mine.yaml:4", "training.Learning-Rate", "did you mean 'lr'?"),
    ("rank: 8", "mine.yaml:3", "rank", "did you mean 'adapter.rank'?"),
    ("batch_size: 8", "mine.yaml:3", "batch_size", "did you mean 'training.batch_size' or 'evaluation.batch_size'?"),
    ("trainign: {lr: 1}", "mine.yaml:3", "trainign", "did you mean 'training'?"),
    ("extend: demo", "mine.yaml:3", "extend", "did you mean 'extends'?"),
    ("adapter: {rank:8}", "mine.yaml:3", "adapter.rank:8", "'rank: 8', with a space behind the colon"),
    ("adapter.rank: 8", "mine.yaml:3", "adapter.rank", "'rank:' on a line of its own, indented below 'adapter:'"),
]


@pytest.mark.parametrize(("text", "where", "key", "hint"), KEYS)
def test_unknown_key(mistakes, text, where, key, hint):
    (problem,) = mistakes(text)
    assert (problem.where, problem.key, problem.hint) == (where, key, hint)
    assert "no key" in problem.what or "no section" in problem.what


def test_unknown_key_lists_what_the_section_has(mistakes):
    (problem,) = mistakes("run:\n  sead: 1")
    assert "seed" in problem.valid.split(", ")
    assert "log_every" in problem.valid.split(", ")
    (problem,) = mistakes("zzz: 1")
    assert problem.valid == "sections model, task, adapter, search, training, evaluation, run; and extends"
    assert problem.hint == ""


# written value of a key -> (part of the message, what is valid, what to try)
VALUES = [
    ("adapter.rank", "four", "wants a whole number, not the text 'four'", "a whole number at least 1; or null", ""),
    ("adapter.rank", "8.0", "not the number 8.0", "a whole number at least 1; or null", "rank: 8"),
    ("adapter.rank", "1e1", "not the number 1e1", "a whole number at least 1; or null", "rank: 10"),
    ("adapter.rank", "8.5", "not the number 8.5", "a whole number at least 1; or null", ""),
    ("adapter.rank", '"8"', "not the text '8' in quotes", "a whole number at least 1; or null", "rank: 8, without quotes"),
    ("adapter.rank", "010", "not the text '010'", "a whole number at least 1; or null", ""),
    ("adapter.rank", "1:30", "not the text '1:30'", "a whole number at least 1; or null", ""),
    ("adapter.rank", "yes", "yes, which YAML reads as true", "a whole number at least 1; or null", ""),
    ("adapter.rank", "[8]", "not a list", "a whole number at least 1; or null", ""),
    ("adapter.rank", "{a: 1}", "not a mapping", "a whole number at least 1; or null", ""),
    ("adapter.rank", "0", "0 is not at least 1", "a whole number at least 1; or null", ""),
    ("adapter.rank", "-3", "-3 is not at least 1", "a whole number at least 1; or null", ""),
    ("training.batch_size", "null", "cannot be null", "a whole number at least 1", "leave the key out for its default: 32"),
    ("training.batch_size", "", "is empty", "a whole number at least 1", "leave the key out for its default: 32"),
    ("adapter.rank", "!!int 8", "has the tag !!int", "a whole number at least 1; or null", ""),
    ("adapter.rank", "9" * 5000, "wants a whole number", "a whole number at least 1; or null", ""),
    ("adapter.dropout", "1", "1 is not at least 0 and below 1", "a number at least 0 and below 1", ""),
    ("adapter.dropout", "-0.1", "-0.1 is not", "a number at least 0 and below 1", ""),
    ("adapter.alpha", "0", "0 is not above 0", "a number above 0; or null", ""),
    ("adapter.alpha", "true", "true, which YAML reads as true", "a number above 0; or null", ""),
    ("adapter.init", '""', "has an empty text", None, ""),
    ("adapter.method", "Dora", "'Dora' is not one of the choices", None, "did you mean 'dora'?"),
    ("adapter.scale", "off", "off, which YAML reads as false", "lora, rslora, constant, none; or null", ""),
    ("adapter.scale", "rlora", "is not one", "lora, rslora, constant, none; or null", "did you mean 'rslora'?"),
    ("adapter.decomposition", "None", "is not one of", "none, magnitude; or null", "did you mean 'none'?"),
    ("adapter.trainable", "A/B", "'A/B' cannot be used here", None, ""),
    ("adapter.targets", "q,k", "'q,k' is one text, not a list", None, "[q, k]"),
    ("adapter.targets", "q k v", "'q k v' is one text, not a list", None, "[q, k, v]"),
    ("adapter.targets", "[q, k, q]", "'q' is given twice", "each entry once", ""),
    ("adapter.targets", "[q, [k]]", "wants text, not a list", None, ""),
    ("adapter.targets", "[q, no]", "no, which YAML reads as false", None, '"no", in quotes'),
    ("adapter.targets", "[q, null]", "has an empty text", None, ""),
    ("adapter.targets", "{q: 8}", "wants a list, not a mapping", None, ""),
    ("adapter.targets", "['attention.(query']", "can match no module: not a regular expression", None, ""),
    ("adapter.targets", "['a{99999999999999999999}']", "can match no module", None, ""),
    ("adapter.targets", f"['{'(' * 5000}']", "can match no module", None, ""),
    ("adapter.targets", "['q v']", "module names have no spaces", None, ""),
    ("adapter.targets", "[]", "nothing would be adapted", None, "targets: [q, v]"),
    ("adapter.shortcuts", "[mdi]", "'mdi' is not", "a list of: res1, res2, in, cut, mid", "did you mean 'mid'?"),
    ("adapter.allocation", "[a]", "wants a mapping, not a list", None, ""),
    ("adapter.allocation", "{a: 0}", "0 is not at least 1", "a mapping from names to a whole number at least 1", ""),
    ("adapter.allocation", "{a: 1, a: 2}", "'a' is given twice", "each name once", ""),
    ("adapter.allocation", "{[a]: 1}", "is not a plain name", None, ""),
    ("adapter.options", "{beta:0.9}", "'beta:0.9' has no value", None, "'beta: 0.9', with a space behind the colon"),
    ("adapter.options", '{"a\\e": 1}', "is not a plain name", None, ""),
    ("adapter.options", "{per_layer: no}", "wants text, not no, which YAML reads as false", None, 'false, or "no", in quotes'),
    ("search.method", "hetero_lora", "'hetero_lora' is not one", None, "did you mean 'heterolora'?"),
    ("search.proxy", "grad-norm", "'grad-norm' is not one", None, "did you mean 'gradnorm'?"),
    ("search.off", "off", "wants text, not off, which YAML reads as false", "drop, freeze", ""),
    ("search.off", "freez", "'freez' is not", "drop, freeze", "did you mean 'freeze'?"),
    ("search.preset", "papr", "'papr' is not", "paper, best; or null", "did you mean 'paper'?"),
    ("search.enable", "0", "0 is not above 0 and at most 1", "a number above 0 and at most 1; or null", ""),
    ("search.enable", "25%", "not the text '25%'", None, "enable: 0.25"),
    ("search.every", "0", "0 is not above 0", "a number above 0", ""),
    ("search.batches", "0", "0 is not at least 1", "a whole number at least 1", ""),
    ("training.lr", '"5e-4"', "not the text '5e-4' in quotes", "a number above 0, or auto; or null", "lr: 5e-4, without quotes"),
    ("training.lr", "5 e-4", "not the text '5 e-4'", "a number above 0, or auto; or null", "lr: 5e-4"),
    ("training.lr", "5e−4", "not the text", "a number above 0, or auto; or null", "lr: 5e-4"),
    ("training.lr", "0,001", "not the text '0,001'", "a number above 0, or auto; or null", "lr: 0.001"),
    ("training.lr", ".nan", ".nan is not a finite number", "a number above 0, or auto; or null", ""),
    ("training.lr", ".inf", ".inf is not a finite number", "a number above 0, or auto; or null", ""),
    ("training.lr", "nan", "not the text 'nan'", "a number above 0, or auto; or null", ""),
    ("training.lr", "1e999", "1e999 is not a finite number", "a number above 0, or auto; or null", ""),
    ("training.lr", "0", "0 is not above 0", "a number above 0, or auto; or null", ""),
    ("training.lr", "outo", "not the text 'outo'", "a number above 0, or auto; or null", "did you mean 'auto'?"),
    ("training.warmup", "1.5", "1.5 is not at least 0 and at most 1", None, ""),
    ("training.epochs", "0", "0 is not above 0", None, ""),
    ("training.batch_size", "0", "0 is not at least 1", None, ""),
    ("training.precision", "fp23", "'fp23' is not", "fp32, bf16, fp16", "did you mean 'fp32'?"),
    ("training.length_grouping", '"true"', "wants true or false", "true or false", "length_grouping: true, without quotes"),
    ("training.length_grouping", "1", "not the number 1", "true or false", ""),
    ("evaluation.every_steps", "0", "0 is not at least 1", None, ""),
    ("run.seed", "-1", "-1 is not at least 0", None, ""),
    ("run.name", "a/b", "'a/b' cannot be used here", "a folder name, without slashes; or null", ""),
    ("run.name", "..", "'..' cannot be used here", None, ""),
    ("run.name", "${run.seed}", "is not filled in: a recipe has plain values", None, ""),
    ("run.folder", '"a\\0b"', "has the character 0x0000, which is not text", None, ""),
    ("adapter.start", '"\\uD800"', "has the character 0xd800, which is not text", None, ""),
    ("run.name", "on", "on, which YAML reads as true", None, '"on", in quotes'),
    ("run.folder", "???", "is not filled in", None, ""),
    ("run.trackers", "tensorbord", "'tensorbord' is not", None, "did you mean 'tensorboard'?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "what", "valid", "hint"), VALUES, ids=[f"{v[0]}={v[1][:12]}" for v in VALUES]
)
def test_wrong_value(mistakes, path, value, what, valid, hint):
    section, name = path.split(".")
    (problem,) = mistakes(f"{section}:\n  {name}: {value}\n")
    assert (problem.where, problem.key) == ("mine.yaml:4", path)
    assert what in problem.what
    assert problem.valid if valid is None else problem.valid == valid
    assert problem.hint == hint


@pytest.mark.parametrize(("path", "value", "what", "valid", "hint"), VALUES[:12])
def test_wrong_value_on_the_command_line(mistakes, path, value, what, valid, hint):
    (problem,) = mistakes("", f"{path}={value}")
    assert (problem.where, problem.key, problem.hint) == ("command line", path, hint)
    assert what in problem.what


def test_choices_come_from_the_registries(mistakes):
    problems = mistakes("adapter: {method: x}\nsearch: {proxy: x, method: x}\n", "task.name=x")
    valid = {problem.key: problem.valid.split(", ") for problem in problems}
    assert set(valid["adapter.method"]) >= {"lora", "rslora", "lora_plus", "lora_fa", "dora"}
    assert set(valid["search.proxy"]) >= {"gradnorm", "snip", "synflow", "alpha", "constant"}
    assert set(valid["search.method"]) >= {"none", "heterolora"}
    glue = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert set(valid["task.name"]) >= glue | {"rotten_tomatoes", "custom"}


def test_items_and_entries_have_their_own_lines(mistakes):
    text = "adapter:\n  targets:\n    - q\n    - off\n  allocation:\n    a.b: 4\n    a.c: none\n"
    assert [(problem.where, problem.key) for problem in mistakes(text)] == [
        ("mine.yaml:6", "adapter.targets"),
        ("mine.yaml:9", "adapter.allocation"),
    ]


def test_missing_keys(mistakes):
    problems = mistakes("model:\n  dtype: float32\n", head="")
    assert [(problem.where, problem.key) for problem in problems] == [
        ("mine.yaml:1", "model.name"),
        ("mine.yaml", "task.name"),
    ]
    assert "bundled:minilm" in problems[0].valid


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("task: mrpc", "is the text 'mrpc'; a section is a mapping", "task: {name: mrpc}"),
        ("task: [mrpc]", "is a list; a section is a mapping", ""),
    ],
)
def test_a_section_that_is_no_mapping_is_told_once(mistakes, text, what, hint):
    (problem,) = mistakes(text, head="model: {name: bundled:minilm}\n")
    assert (problem.where, problem.key, problem.what, problem.hint) == ("mine.yaml:2", "task", what, hint)


def test_duplicate_keys_and_sections(mistakes):
    problems = mistakes("adapter:\n  rank: 4\n  rank: 8\nmodel: {name: x}\n")
    assert [(problem.where, problem.key) for problem in problems] == [
        ("mine.yaml:5", "adapter.rank"),
        ("mine.yaml:6", "model"),
    ]
    assert "first at mine.yaml:4" in problems[0].what


def test_all_mistakes_of_all_places_at_once(mistakes, folder):
    Path("base.yaml").write_text("training:\n  lr: fast\n")
    text = "extends: base.yaml\nadapter:\n  rnak: 8\n  alpha: x\nsearch: {enable: 2, uniform_rank: 2}\n"
    problems = mistakes(text, "run.seed=x", "nonsense")
    assert [(problem.where, problem.key) for problem in problems] == [
        ("mine.yaml:5", "adapter.rnak"),
        ("mine.yaml:6", "adapter.alpha"),
        ("mine.yaml:7", "search.enable"),
        ("base.yaml:2", "training.lr"),
        ("command line", "run.seed"),
        ("command line", ""),
        ("mine.yaml:7", "search.uniform_rank"),
    ]
    text = str(RecipeError(problems))
    assert "mine.yaml:5: adapter.rnak: section 'adapter' has no key 'rnak'\n    valid: method, targets" in text
    assert "\n    try: did you mean 'rank'?" in text


def test_command_line_slips(mistakes):
    problems = mistakes(
        "", "adapter.rank", "=3", "adapter.targets=[q", "adapter.rnak=3", "adater.rank=3", "extends=demo"
    )
    assert [problem.where for problem in problems] == ["command line"] * 6
    assert [problem.hint for problem in problems] == [
        "adapter.rank=VALUE",
        "",
        "a closing bracket or quote",
        "did you mean 'rank'?",
        "did you mean 'adapter.rank'?",
        "a recipe file with this line in it",
    ]


FILES = [
    (b"", "mine.yaml", "is empty", "`lorakit list recipes` for examples"),
    (b"# only a comment\n", "mine.yaml", "is empty", "`lorakit list recipes` for examples"),
    (b"- a\n- b\n", "mine.yaml:1", "is a list; a recipe is a mapping of sections", ""),
    (b"\nhello\n", "mine.yaml:2", "is the text 'hello'; a recipe is a mapping of sections", ""),
    (b"adapter:\n\trank: 8\n", "mine.yaml:2", "is not valid YAML: column 1", "spaces instead of the tab"),
    (b"adapter: [\n", "mine.yaml:2", "is not valid YAML: column 1", "a closing bracket or quote"),
    (b"run: {name: \"x}\n", "mine.yaml:2", "is not valid YAML: column 1", "a closing bracket or quote"),
    (b"run: {name: *x}\n", "mine.yaml:1", "is not valid YAML: column 13", "quotes around the value"),
    (b"run:\n  name: a: b\n", "mine.yaml:2", "column 10", "the same indentation for all keys of a section, and quotes "
     "around a value with a colon"),
    (b"run: {}\n---\nrun: {}\n", "mine.yaml:2", "column 1", "one recipe a file, without '---' in between"),
    (b"run:\n  name: caf\xe9\n", "mine.yaml:2", "byte 0xe9 is not UTF-8 text", "save the file as UTF-8"),
    ("run: {}\n".encode("utf-16"), "mine.yaml:1", "byte 0xff is not UTF-8 text", "save the file as UTF-8"),
    (b"run:\n  name: a\x00b\n", "mine.yaml:2", "character 0x0000 has no place in a text file", ""),
    (b"[" * 20_000, "mine.yaml:1", "is nested too deeply to be a recipe", ""),
    (b"#" * 1_000_001, "mine.yaml", "is larger than 1,000,000 bytes: this is no recipe", ""),
]  # fmt: skip


@pytest.mark.parametrize(("data", "where", "what", "hint"), FILES, ids=[repr(file[0][:20]) for file in FILES])
def test_a_file_that_is_no_recipe(folder, data, where, what, hint):
    Path("mine.yaml").write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        load_recipe("mine.yaml", ["adapter.rank=x"])
    problem, on_the_command_line = caught.value.problems
    assert (problem.where, problem.hint) == (where, hint)
    assert what in problem.what
    assert on_the_command_line.key == "adapter.rank"


def test_a_folder_in_place_of_a_file(folder):
    Path("runs/one").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"^runs/one: this folder is not a run: it has no recipe\.yaml\n"):
        load_recipe("runs/one")
    Path("runs/one/recipe.yaml").touch()
    with pytest.raises(RecipeError, match=r"^runs/one/recipe\.yaml: is empty"):
        load_recipe("runs/one")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dmeo", "did you mean 'demo'?"),
        ("dmeo.yaml", "did you mean 'demo'?"),
        ("mrpc-heterlora", "did you mean 'mrpc-heterolora'?"),
        ("my-recipi.yaml", "did you mean 'my-recipe.yaml'?"),
        ("zzzzzz", ""),
        ("", ""),
        ("a\x00b", ""),
        ("x" * 5000, ""),
        ("x" * 5000 + "/y.yaml", ""),
        ("~nobody-of-this-name/x.yaml", ""),
    ],
)
def test_a_recipe_that_is_not_there(folder, name, hint):
    Path("my-recipe.yaml").touch()
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    (problem,) = caught.value.problems
    assert problem.hint == hint
    assert "demo" in problem.valid
