"""Mixtures whose experts are the adapters of finished runs: what they compute, what trains, and that they outlive those runs."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.runs import Bench, StopAt, records
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.errors import Interrupted, LorakitError, RecipeError
from lorakit.workflow.train import TrainResult

WIDTH, SCALE, RANKS = 32, {"one": 16 / 4, "two": 16 / 2}, {"one": 4, "two": 2}
SITES = {"one": ("query", "value"), "two": ("query",)}
SHORT = ("training.max_steps=2", "adapter.dropout=0")
METHODS = ("lora_moe", "x_lora", "token_level")
TEXTS = ["a good warm joke", "rain"]


@pytest.fixture(scope="module")
def experts(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LoRAs of other sites and ranks."""
    folder = tmp_path_factory.mktemp("experts")
    settings = {"one": ["adapter.targets=[q,v]"], "two": ["adapter.targets=[q]", "adapter.rank=2"]}
    return {
        name: bench.train("training.max_steps=3", "run.seed=4", *own, run_dir=folder / name, name=name).run_dir
        for name, own in settings.items()
    }


def mixed(method: str, experts: dict[str, Path]) -> tuple[str, ...]:
    named = ",".join(map(str, experts.values()))
    return (*SHORT, f"adapter.method={method}", f"adapter.experts=[{named}]")


@pytest.fixture(scope="module")
def runs(bench: Bench, experts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {name: bench.train(*mixed(name, experts), run_dir=folder / name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_the_experts_are_the_runs_updates_and_stay_so(
    experts: dict[str, Path], runs: dict[str, TrainResult], method: str
) -> None:
    """Against the LoRAs in PEFT's form, which the runs' own folders have: s B A of each, nothing where it has no site."""
    held = load_file(runs[method].run_dir / "adapter" / "lorakit_model.safetensors")
    for layer, name in ((0, "query"), (1, "query"), (0, "value"), (1, "value")):
        site = f"bert.encoder.layer.{layer}.attention.self.{name}"
        a, b = held[f"{site}.A"].unflatten(0, (2, -1)), held[f"{site}.B"].unflatten(1, (2, -1))
        for number, (expert, folder) in enumerate(experts.items()):
            theirs = load_file(folder / "adapter" / "adapter_model.safetensors")
            expected = torch.zeros(WIDTH, WIDTH)
            if name in SITES[expert]:
                key = f"base_model.model.{site}.lora_"
                expected = SCALE[expert] * theirs[f"{key}B.weight"] @ theirs[f"{key}A.weight"]
                assert expected.any()
            assert_close(b[:, number] @ a[number], expected)


@pytest.mark.parametrize(
    ("method", "count"), [("lora_moe", 4 * 2 * WIDTH), ("x_lora", 2 * (WIDTH + 1)), ("token_level", 0)]
)
def test_what_trains_is_the_router_and_is_counted_exactly(
    bench: Bench, experts: dict[str, Path], runs: dict[str, TrainResult], method: str, count: int
) -> None:
    plan = lorakit.plan(bench.load(*mixed(method, experts)))
    assert (plan.adapter_parameters, plan.budget, runs[method].adapter_parameters) == (count, count, count)
    assert [note for note in plan.notes if note.startswith("expert")] == [
        f"expert 1: {experts['one']} (train, last weights, 4 sites)",
        f"expert 2: {experts['two']} (train, last weights, 2 sites)",
    ]


def test_with_a_router_that_does_not_choose_it_is_the_mean_of_the_runs(
    bench: Bench, experts: dict[str, Path], runs: dict[str, TrainResult], tmp_path: Path
) -> None:
    """`combine` has the mean of the updates in one LoRA."""
    mean = lorakit.load(lorakit.combine([*experts.values()], out=tmp_path / "mean").out)
    mixture = lorakit.load(runs["lora_moe"].run_dir)
    own = mixture.adapted.tensors()
    with torch.no_grad():
        for name, tensor in own.items():
            if name.endswith(".R"):
                tensor.zero_()
        for name in mixture.adapted.new_parts:
            own[name].copy_(mean.adapted.tensors()[name])
    assert_close(mixture.predict_proba(TEXTS), mean.predict_proba(TEXTS), rtol=1e-4, atol=1e-5)


def test_it_outlives_its_experts(
    bench: Bench, experts: dict[str, Path], runs: dict[str, TrainResult], tmp_path: Path
) -> None:
    """Copies of the runs are deleted in the middle of a training, which goes on and ends as it did with them; so do all who use it."""
    copies = {name: Path(shutil.copytree(folder, tmp_path / name)) for name, folder in experts.items()}
    place, settings = tmp_path / "mixture", mixed("x_lora", copies)
    with pytest.raises(Interrupted):
        bench.train(*settings, run_dir=place, hooks=[StopAt(1)])
    for folder in copies.values():
        shutil.rmtree(folder)
    result = bench.train(*settings, run_dir=place, resume=True)
    assert records(place) == records(runs["x_lora"].run_dir)
    assert lorakit.evaluate(place, task="custom").scores == pytest.approx(result.last, abs=1e-9)
    together = lorakit.open_adapters(f"mixed={place}")
    assert_close(together["mixed"].predict_proba(TEXTS), lorakit.load(place).predict_proba(TEXTS))
    with pytest.raises(LorakitError, match="no one matrix says the same"):
        lorakit.merge(place, out=tmp_path / "merged")
    with pytest.raises(LorakitError, match="its experts are adapters of other runs"):
        lorakit.compress(place, method="compeft", out=tmp_path / "coded")


def test_it_remembers_what_its_experts_were(experts: dict[str, Path], runs: dict[str, TrainResult]) -> None:
    told = {name: read_json(runs[name].run_dir / "data.json")["experts"] for name in METHODS}
    assert told["lora_moe"] == told["x_lora"] != told["token_level"]  # whose centroids are remembered too
    assert [each["run"] for each in told["x_lora"]] == [str(folder) for folder in experts.values()]
    assert len({each["digest"] for each in told["x_lora"]}) == 2


def test_a_centroid_is_the_mean_of_the_mean_states_of_the_runs_training_rows(
    bench: Bench, experts: dict[str, Path], runs: dict[str, TrainResult]
) -> None:
    """By transformers alone, row by row. Both runs had the same rows."""
    held = load_file(runs["token_level"].run_dir / "adapter" / "lorakit_model.safetensors")["shared.all.C"]
    tokenizer, model = (kind.from_pretrained(bench.backbone()) for kind in (AutoTokenizer, AutoModel))
    with (bench.data() / "train.csv").open(newline="") as file, torch.no_grad():
        texts = [row["sentence"] for row in csv.DictReader(file)]
        rows = [model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in texts]
    assert_close(held, torch.stack(rows).mean(dim=0).expand(2, -1), rtol=1e-4, atol=1e-5)


def test_a_run_whose_texts_are_gone_has_no_centroid(bench: Bench, experts: dict[str, Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    shutil.copy(bench.data() / "train.csv", rows)
    other = bench.train(*SHORT, f"task.train={rows}", run_dir=tmp_path / "other").run_dir
    named = {"one": experts["one"], "other": other}
    rows.write_text(rows.read_text().replace("happy", "plain", 1))
    for _ in range(2):
        with pytest.raises(RecipeError, match="is weighed by its texts, and these cannot be had") as caught:
            lorakit.plan(bench.load(*mixed("token_level", named)))
        assert "adapter.method=x_lora" in str(caught.value)
        rows.unlink(missing_ok=True)
    assert lorakit.plan(bench.load(*mixed("x_lora", named))).adapter_parameters == 2 * (WIDTH + 1)


BOTH = "adapter.experts=[{one},{two}]"


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        (("adapter.method=lora_moe", "adapter.experts=[{one}]"), "adapter.experts", "one run is no mixture"),
        (("adapter.method=lora_moe", "adapter.experts=[{one},{one}/.]"), "adapter.experts", "more than once"),
        (("adapter.method=x_lora",), "adapter.experts", "none is named"),
        (("adapter.method=hydralora", BOTH), "adapter.experts", "takes no adapters of finished runs"),
        (("adapter.method=x_lora", BOTH, "adapter.options={{experts: 3}}"), "adapter.options", "names 2 runs"),
        (("adapter.method=x_lora", BOTH, "adapter.start={one}"), "adapter.start", "the experts are one"),
        (("adapter.method=x_lora", BOTH, "adapter.shortcuts=[res1]"), "adapter.shortcuts", "beside the experts"),
        (("adapter.method=x_lora", BOTH, "adapter.in_full=[norms]"), "adapter.in_full", "the experts stand on"),
        (("adapter.method=x_lora", BOTH, "training.freeze_below=1"), "training.freeze_below", "once a row"),
        (("adapter.method=lora_moe", BOTH, "adapter.allocation={{a.b: 2}}"), "adapter.allocation", "other ranks"),
        (("adapter.method=lora_moe", BOTH, "search.method=heterolora"), "search.method", "take parts of them out"),
        (("adapter.method=x_lora", BOTH, "adapter.updates=[load_balance]"), "adapter.updates", "has none"),
    ],
)
def test_what_does_not_go_with_experts_is_told_by_a_plan(
    bench: Bench, experts: dict[str, Path], settings: tuple[str, ...], key: str, what: str
) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        lorakit.plan(bench.load("adapter.dropout=0", *(each.format(**experts) for each in settings)))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_a_run_whose_update_is_no_product_is_no_expert(bench: Bench, experts: dict[str, Path], tmp_path: Path) -> None:
    settings = ("training.max_steps=1", "adapter.method=dora", "adapter.targets=[q]")
    other = bench.train(*settings, run_dir=tmp_path / "other").run_dir
    with pytest.raises(LorakitError, match="is not of low rank, as experts are"):
        lorakit.plan(bench.load(*mixed("lora_moe", {"one": experts["one"], "other": other})))


def test_runs_over_another_model_are_no_experts(bench: Bench, experts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a run over .*, and this recipe's model is"):
        lorakit.plan(bench.load(*mixed("lora_moe", experts), family="roberta"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LorakitError, match="empty"):
        lorakit.plan(bench.load(*mixed("lora_moe", {"one": experts["one"], "none": tmp_path / "empty"})))


def test_a_command_that_opens_no_experts_says_so(bench: Bench, experts: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="this command opens none"):
        lorakit.search(bench.load(*mixed("lora_moe", experts)))
