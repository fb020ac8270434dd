"""``lorakit search --method glora`` end to end on a tiny model, and a number to predict, so that no two configurations are equals."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from support.adapters.glora_by_hand import cost
from support.runs import TRAIN_ROWS, Bench, StopAt, without

import lorakit
from lorakit.adapters.deltas.glora import CHOICES
from lorakit.artifacts.files import read_json, read_jsonl
from lorakit.artifacts.run import Run
from lorakit.backbone.site import Site
from lorakit.errors import Interrupted, RecipeError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow import train as running
from lorakit.workflow.glora import evolve as evolving
from lorakit.workflow.glora import supernet
from lorakit.workflow.glora.evolve import EvolutionResult, Progress
from lorakit.workflow.prepare import prepare
from lorakit.workflow.restore import restore_run
from lorakit.workflow.setup import assemble


def settings(**changed: float) -> str:
    """The search's options, small ones, with some changed."""
    given = {"population": 4, "generations": 2, "parents": 2, "holdout": 0.3} | changed
    return f"search.options={{{', '.join(f'{name}: {value}' for name, value in given.items())}}}"


GLORA = (
    "adapter.method=glora",
    "adapter.dropout=0",
    "adapter.targets=[q,v]",
    "search.method=glora",
    settings(),
    "training.epochs=1",
    "training.lr=0.05",
)
TIMES = ("seconds", "supernet_seconds", "folder", "found", "emitted")


def evolve(bench: Bench, *overrides: str, **options: Any) -> EvolutionResult:
    """A search without the figures of its supernet's run."""
    name = options.pop("name", "small")
    with mock.patch.object(running, "draw"):
        return lorakit.evolve(bench.load(*GLORA, *overrides, kind="number", name=name), **options)


@pytest.fixture(scope="module")
def found(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> EvolutionResult:
    """A finished search with a recipe. Not to be written into."""
    return evolve(bench, name="evolved", emit=tmp_path_factory.mktemp("found") / "out.yaml")


def test_what_was_found_is_the_best_of_all_that_were_tried(found: EvolutionResult) -> None:
    records = read_jsonl(found.folder / "generations.jsonl")
    assert [record["generation"] for record in records] == [0, 1]
    tried = [each for record in records for each in record["candidates"]]
    assert len({each["fitness"] for each in tried}) == 8
    assert len(tried) == found.tried == 8
    assert len({each["choices"] for each in tried}) == 8
    best = max(each["fitness"] for each in tried)
    assert found.fitness == best
    assert found.parameters == min(each["parameters"] for each in tried if each["fitness"] == best)
    for record in records:
        values = [each["fitness"] for each in record["candidates"]]
        assert record["best"] == max(values)
        assert record["mean"] == pytest.approx(sum(values) / 4)
    assert found.held_out == round(0.3 * TRAIN_ROWS)
    assert read_json(found.folder / "search.json")["fitness"] == best


def test_the_supernet_draws_a_configuration_at_each_step(found: EvolutionResult) -> None:
    adapter = load_recipe(found.folder / "supernet" / "recipe.yaml").recipe.adapter
    assert adapter.options == {"mode": "supernet"}
    assert adapter.updates == ["glora_supernet"]


def test_parameters_are_those_of_the_papers_table(found: EvolutionResult) -> None:
    assert len(found.sites) == 4
    for site in found.sites:
        assert set(site.configuration) == set(CHOICES)
        plain = Site(site.name, site.layer, site.role, 32, 32, "linear")
        assert site.parameters == cost(plain, rank=site.rank, **site.configuration)
    assert found.parameters == sum(site.parameters for site in found.sites)


def test_the_recipe_trains_what_was_announced(bench: Bench, found: EvolutionResult, tmp_path: Path) -> None:
    loaded = load_recipe(found.emitted)
    assert loaded.recipe.search.method == "none"
    assert loaded.recipe.adapter.start is None
    assert loaded.recipe.adapter.updates == []
    with mock.patch.object(running, "draw"):
        result = lorakit.train(loaded, run_dir=tmp_path / "run")
    assert result.adapter_parameters == found.parameters


def test_the_run_that_was_found_has_the_supernets_weights_and_scores_what_was_told(
    bench: Bench, found: EvolutionResult
) -> None:
    restored = restore_run(found.found, "last")
    assert restored.adapted.adapter_parameters() == found.parameters
    loaded = bench.load(*GLORA, kind="number", name="evolved")
    rows = supernet.searched_on(restored.parts.data, 0.3, loaded.recipe.run.seed)
    whole = supernet.load_supernet(loaded, found.folder / "supernet", rows)
    chosen = {site.name: site.configuration for site in found.sites}
    assert whole.fitness(chosen) == found.fitness
    batch = whole.parts.encode("validation")["validation"].collate([0, 1, 2])
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = [adapted.model.eval()(**batch).logits for adapted in (whole.adapted, restored.adapted)]
    assert len(labels) == 3
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-6)
    told = lorakit.evaluate(found.found, task="custom")
    assert set(told.scores) == {"pearson", "spearman", "mse"}


def test_the_same_seed_finds_the_same_and_a_stopped_search_goes_on_as_if_it_had_not_been(
    bench: Bench, found: EvolutionResult
) -> None:
    options: dict[str, Any] = {"name": "stopped"}
    with pytest.raises(Interrupted, match="supernet") as told:
        evolve(bench, hooks=[StopAt(2)], emit=Path("out.yaml"), keep=True, **options)
    words = shlex.split(told.value.problems[0].hint)
    folder = Path(words[2])
    assert words == ["lorakit", "search", str(folder), "--resume", "--emit", "out.yaml", "--keep-weights"]

    count = []

    def press(self: supernet.Supernet, chosen: Any) -> float:
        count.append(chosen)
        if len(count) == 7:  # the whole one, four of generation 0, two of generation 1
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        self.configure(chosen)
        return self.score()

    with mock.patch.object(supernet.Supernet, "fitness", press), pytest.raises(Interrupted, match="generation 2 of 2"):
        evolve(bench, resume=True, **options)
    with (folder / "generations.jsonl").open("a") as stream:
        stream.write('{"generation": 1, "candidates": [{"fit')  # a write that was cut short
    seen: list[Progress] = []
    again = evolve(bench, resume=True, watch=seen.append, **options)
    assert [each.generation for each in seen] == [2]
    assert again.folder == folder
    assert without(again.to_dict(), TIMES) == without(found.to_dict(), TIMES)
    for name in ("generations.jsonl", "found/adapter/lorakit_model.safetensors"):
        assert (folder / name).read_bytes() == (found.folder / name).read_bytes()


def test_another_seed_searches_elsewhere(bench: Bench, found: EvolutionResult) -> None:
    other = evolve(bench, "run.seed=1", settings(generations=1), name="other")
    assert read_jsonl(other.folder / "generations.jsonl")[0] != read_jsonl(found.folder / "generations.jsonl")[0]


def test_validation_and_test_rows_are_never_looked_at(bench: Bench, found: EvolutionResult, tmp_path: Path) -> None:
    with (bench.data() / "validation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in ("validation", "test"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(rows[0]))
            table.writeheader()
            table.writerows(row | {"sentence": "bad dog", "number": 1 - float(row["number"])} for row in rows[:11])
    spoilt = evolve(
        bench, f"task.validation={tmp_path}/validation.csv", f"task.test={tmp_path}/test.csv", name="spoilt"
    )
    assert without(spoilt.to_dict(), TIMES) == without(found.to_dict(), TIMES)
    generations = (found.folder / "generations.jsonl").read_bytes()
    assert (spoilt.folder / "generations.jsonl").read_bytes() == generations


def test_the_supernet_does_not_train_on_the_held_out_rows(bench: Bench) -> None:
    data = restore_data(bench)
    rows = supernet.searched_on(data, 0.3, 0)
    kept, held = (set(rows.splits[name]["idx"]) for name in ("train", "validation"))
    assert not kept & held
    assert kept | held == set(data.splits["train"]["idx"])
    assert set(rows.splits) == {"train", "validation"}
    assert rows.task.test == ()


def restore_data(bench: Bench) -> Any:
    from lorakit.tasks.sources import load_task

    return load_task(bench.load(kind="number").recipe.task, seed=0)


@pytest.mark.parametrize(
    ("limits", "lowest", "highest"),
    [
        (("search.parameters=900",), 0, 900),
        ((settings(min_parameters=1500),), 1500, 10**9),
        (
            ("search.enable=0.25", settings(min_parameters=500)),
            500,
            (4 * cost(Site("", 0, "q", 32, 32, "linear"), 4)) // 4,
        ),
    ],
)
def test_limits_hold_for_every_configuration(
    bench: Bench, found: EvolutionResult, limits: tuple[str, ...], lowest: int, highest: int
) -> None:
    def ready(loaded: Any, path: Path, *rest: Any) -> float:
        return 0.0  # the supernet of `found` stands in

    real = supernet.load_supernet
    with (
        mock.patch.object(evolving, "train_supernet", ready),
        mock.patch.object(
            evolving, "load_supernet", lambda loaded, path, rows: real(loaded, found.folder / "supernet", rows)
        ),
    ):
        result = evolve(bench, *limits, name="limited")
    for record in read_jsonl(result.folder / "generations.jsonl"):
        assert len(record["candidates"]) == 4
        assert all(lowest <= each["parameters"] <= highest for each in record["candidates"])


def test_shortcuts_are_part_of_every_configuration_and_kept_weights_start_the_next_training(
    bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "out.yaml"
    result = evolve(
        bench,
        "adapter.shortcuts=[res1]",
        "adapter.shortcut_rank=2",
        settings(generations=1),
        name="crossing",
        emit=out,
        keep=True,
    )
    shortcuts = 2 * 2 * (32 + 32)
    assert result.parameters == shortcuts + sum(site.parameters for site in result.sites)
    assert restore_run(result.found, "last").adapted.adapter_parameters() == result.parameters
    loaded = load_recipe(out)
    assert loaded.recipe.adapter.start == str(result.found)
    start = restore_run(result.found, "last").adapted.tensors()
    training = prepare(loaded, assemble(loaded), Run(tmp_path / "run"), [])
    assert all(torch.equal(tensor, start[name]) for name, tensor in training.adapted.tensors().items())


def test_a_watcher_sees_every_generation(bench: Bench) -> None:
    seen: list[Progress] = []
    result = evolve(bench, name="watched", watch=seen.append)
    assert [(each.generation, each.of, each.tried) for each in seen] == [(1, 2, 4), (2, 2, 4)]
    assert seen[-1].best_so_far.fitness == result.fitness == max(each.best.fitness for each in seen)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("adapter.method=lora",), "adapter.method"),
        (("adapter.site_options={bert.encoder.layer.0.attention.self.query: A=none}",), "adapter.site_options"),
        (("adapter.delta=low_rank",), "adapter.method"),
    ],
)
def test_a_recipe_without_configurations_to_search_is_refused(bench: Bench, change: tuple[str, ...], key: str) -> None:
    with pytest.raises(RecipeError) as told:
        evolve(bench, *change, name="refused")
    assert [problem.key for problem in told.value.problems] == [key]


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ((settings(min_parameters=1000000),), "search.options"),
        ((settings(min_parameters=2000), "search.parameters=1000"), "search.parameters"),
    ],
)
def test_limits_that_no_configuration_keeps_are_refused_before_anything_is_trained(
    bench: Bench, tmp_path: Path, limits: tuple[str, ...], key: str
) -> None:
    with pytest.raises(RecipeError, match="within the limits") as told:
        evolve(bench, *limits, run_dir=tmp_path / "run")
    assert told.value.problems[0].key == key
    assert not (tmp_path / "run").exists()


def test_a_start_that_is_not_the_supernets_is_refused_before_anything_is_written(
    bench: Bench, found: EvolutionResult, tmp_path: Path
) -> None:
    for start, message in (("nowhere", "neither a run nor an adapter"), (found.found, "is another one")):
        with pytest.raises(RecipeError, match=message) as told:
            evolve(bench, f"adapter.start={start}", run_dir=tmp_path / "run")
        assert told.value.problems[0].key == "adapter.start"
        assert not (tmp_path / "run").exists()


def test_a_supernet_may_start_from_another(bench: Bench, found: EvolutionResult) -> None:
    result = evolve(bench, f"adapter.start={found.folder / 'supernet'}", "training.lr=1e-30", name="again")
    begun, ended = (
        load_file(each / "supernet/adapter/lorakit_model.safetensors") for each in (found.folder, result.folder)
    )
    assert set(begun) == set(ended)
    assert all(torch.allclose(begun[name], ended[name], atol=1e-6) for name in begun)


def test_a_search_that_is_done_or_another_recipe_is_not_gone_on_with(
    bench: Bench, found: EvolutionResult, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="to its end"):
        evolve(bench, name="evolved", resume=True)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text((found.folder / "recipe.yaml").read_text())
    with pytest.raises(UsageError, match=r"search\.options\.mutation"):
        evolve(bench, settings(mutation=0.5), name="evolved", resume=True, run_dir=begun)
    with pytest.raises(UsageError, match=r"search\.options\.mutation"):
        lorakit.evolve(str(begun), [settings(mutation=0.5)], resume=True)


def test_training_with_this_search_is_refused_with_the_command(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lorakit search RECIPE --method glora") as told:
        bench.train(*GLORA, run_dir=tmp_path / "run")
    assert told.value.problems[0].key == "search.method"
    assert not (tmp_path / "run").exists()


def test_the_result_is_json(found: EvolutionResult) -> None:
    assert json.loads(json.dumps(found.to_dict()))["sites"][0]["configuration"].keys() == CHOICES.keys()
