"""Mixtures of experts beside one LoRA of as many parameters, on the rows of three tasks at once.

    python scripts/mixtures.py --data shared/continual --out results/mixtures --rows 1000 --test-rows 500 --seeds 0 1 2 3 4

All sides learn the same rows, pooled, labels of the same name merged, and answer among all labels. On bundled:minilm `lora` at rank 22,
`lora_moe` with four experts of rank 5 and `hydralora` with four of rank 8 train exactly as many adapter parameters. `x_lora`, `routed`
(lora_moe's router) and `token_level` mix three finished LoRAs of rank 7, one a task, learnt on the task's part of the same rows at lora's
rate: they carry about as much, and what trains on all rows is what weighs the three, and the head. Every side has its rate from the same
grid, by the accuracy on a fifth of the training rows of a draw of its own. Beside it, the same trained mixtures with every token weighed as
another token of its batch: what the choice of experts is worth.

Each result is written as it comes, to OUT/SIDE-SEED.json; a call that was stopped goes on. Differences to `lora` are paired by seed, with
the 95 % interval of Student's t over the seeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from continual import accuracies, draw, pooled, recipe_of, train_once
from evidence_stats import student
from kept import kept
from readme_tables import grid

import lorakit
from lorakit.adapters.mixture import Mixture
from lorakit.adapters.scaling_pass import Scalings
from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.workflow.predict import Classifier

REFERENCE = "lora"
COMMON = {"targets": ["q", "v"], "scale": "constant", "alpha": 2}
SIDES: dict[str, dict[str, Any]] = {
    REFERENCE: {"method": "lora", "rank": 22, **COMMON},
    "lora_moe": {"method": "lora_moe", "rank": 5, **COMMON, "options": {"experts": 4}},
    "hydralora": {"method": "hydralora", "rank": 8, **COMMON, "options": {"experts": 4}},
    "x_lora": {"method": "x_lora"},
    "routed": {"method": "lora_moe"},
    "token_level": {"method": "token_level"},
}
OF_RUNS = ("x_lora", "routed", "token_level")
EXPERT = {"method": "lora", "rank": 7, **COMMON}
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TUNING = 100
"""The seed of the draw and the trainings that rates are chosen by."""
HELD_OUT = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder with a folder a task, train.parquet and test.parquet in each"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["dbpedia", "yelp", "agnews"])
    parser.add_argument("--rows", type=int, default=1000, help="training rows a task")
    parser.add_argument("--test-rows", type=int, default=500, help="test rows a task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--rates", type=float, nargs="+", default=[*RATES], help="the grid of every side")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for every training")
    options = parser.parse_args()
    for side in options.sides:
        rate = tuned(side, options)
        print(f"{side}: rate {rate:g}", flush=True)
        for seed in options.seeds:
            told = learnt(side, seed, rate, options)
            print(side, seed, told["accuracy"], told["by_task"], flush=True)
    print(table(options))


def tuned(side: str, options: argparse.Namespace) -> float:
    """The rate of the grid with the highest accuracy on held-out training rows; each try is written as it comes."""
    found: dict[float, float] = {}
    for rate in options.rates:
        file = options.out / "tuning" / f"{side}-{rate:g}.json"
        found[rate] = kept(file, asked(options), partial(held_out_score, side, rate, options))["accuracy"]
    return max(found, key=found.__getitem__)


def held_out_score(side: str, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """What a rate comes to on held-out training rows."""
    return {"accuracy": Run(train(side, TUNING, rate, options)).summary()["last"]["accuracy"]}


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """What every result depends on."""
    return {"tasks": options.tasks, "rows": options.rows, "test_rows": options.test_rows, "set": options.set}


def learnt(side: str, seed: int, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """What a side comes to; what is there is not learnt again."""
    file = options.out / f"{side}-{seed}.json"
    return kept(file, {**asked(options), "rate": rate}, partial(learn, side, seed, rate, options))


def learn(side: str, seed: int, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """What a side comes to with a seed's rows, and with its tokens' weights exchanged where it has any."""
    place = train(side, seed, rate, options)
    rows, classifier, summary = rows_of(seed, options), lorakit.load(place), Run(place).summary()
    (_, by_task), shuffled = accuracies(classifier, rows), None
    if side != REFERENCE:
        with exchanged_weights(seed):
            shuffled = mean(accuracies(classifier, rows)[1])
    told = {
        "rate": rate,
        "trained": summary["adapter_parameters"],
        "carried": carried(classifier),
        "head": summary["head_parameters"],
    }
    return {
        "accuracy": mean(by_task),
        "by_task": by_task,
        "shuffled": shuffled,
        "seconds": summary["seconds"],
        **told,
    }


def train(side: str, seed: int, rate: float, options: argparse.Namespace) -> Path:
    """The run of a side on the rows of all tasks; one that is there is not trained again."""
    rows = rows_of(seed, options)
    place: Path = options.out / "runs" / f"{side}-{seed}-{rate:g}"
    adapter = {**SIDES[side]}
    if side in OF_RUNS:
        own = tuned(REFERENCE, options)
        adapter["experts"] = [str(expert(name, path, seed, own, options)) for name, path in rows.items()]
    run(place, pooled(rows, ready(place)), adapter, seed, rate, options)
    return place


def expert(name: str, rows: Path, seed: int, rate: float, options: argparse.Namespace) -> Path:
    """The run of one task's rows, at the rate of one LoRA."""
    place = ready(options.out / "runs" / f"{name}-{seed}-{rate:g}")
    files = {"train": str(rows / "train.parquet"), "validation": str(rows / "test.parquet")}
    run(place, files, EXPERT, seed, rate, options)
    return place


def run(
    place: Path, files: dict[str, str], adapter: dict[str, Any], seed: int, rate: float, options: argparse.Namespace
) -> None:
    """Train one recipe."""
    recipe = recipe_of(seed, options)
    known = pd.concat([pd.read_parquet(file, columns=["label"]) for file in files.values()])["label"]
    recipe["task"] |= files | {"labels": sorted(known.unique().tolist())}
    recipe["training"]["lr"] = rate
    recipe["adapter"] = adapter
    train_once(recipe, place, options)


def ready(place: Path) -> Path:
    """A place whose folder is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def rows_of(seed: int, options: argparse.Namespace) -> dict[str, Path]:
    """Task -> the folder of its rows; to tune by, the last fifth of the training rows are the test rows."""
    rows = {name: draw(name, seed, options) for name in options.tasks}
    return {name: held_out(path) for name, path in rows.items()} if seed == TUNING else rows


def held_out(path: Path) -> Path:
    """The folder of the same training rows, which are in random order, with some of them for test rows."""
    place, table = (
        ready(path.with_name(f"{path.name}-held-out") / "train.parquet"),
        pd.read_parquet(path / "train.parquet"),
    )
    cut = round((1 - HELD_OUT) * len(table))
    table[:cut].to_parquet(place)
    table[cut:].to_parquet(place.with_name("test.parquet"))
    return place.parent


def carried(classifier: Classifier) -> int:
    """Numbers in all adapters, those that do not train and what they share included."""
    adapted = classifier.adapted
    return sum(tensor.numel() for name, tensor in adapted.tensors().items() if name not in adapted.new_parts)


@contextmanager
def exchanged_weights(seed: int) -> Iterator[None]:
    """Within it every token's experts are weighed as another token's of its batch."""
    generator = torch.Generator().manual_seed(seed)

    def exchanging(weigh: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def weighed(held: Any, x: torch.Tensor) -> torch.Tensor:
            weights = weigh(held, x)
            tokens = x.shape[:-1].numel()
            order = torch.randperm(tokens, generator=generator)
            return weights.reshape(tokens, -1)[order].reshape(weights.shape)

        return weighed

    with (
        patch.object(Mixture, "route", exchanging(Mixture.route)),
        patch.object(Scalings, "computed", exchanging(Scalings.computed)),
    ):
        yield


def table(options: argparse.Namespace) -> str:
    """Means, and differences to one LoRA, in Markdown."""
    found = {side: [read_json(options.out / f"{side}-{seed}.json") for seed in options.seeds] for side in options.sides}
    rows = []
    for side, told in found.items():
        own = [each["accuracy"] for each in told]
        gap = ""
        if side != REFERENCE and REFERENCE in found:
            gap = student(np.subtract(own, [each["accuracy"] for each in found[REFERENCE]]))
        by_task = " ".join(f"{mean(each):.3f}" for each in zip(*(each["by_task"] for each in told), strict=True))
        shuffled = [each["shuffled"] for each in told]
        apart = "" if None in shuffled else student(np.subtract(own, shuffled))
        numbers = (f"{told[0]['trained']:,}", f"{told[0]['carried']:,}", f"{told[0]['rate']:g}")
        rows.append((side, f"{mean(own):.4f}", gap, by_task, apart, *numbers))
    heads = ("accuracy", "to lora", " ".join(options.tasks), "to exchanged weights", "trained", "carried", "rate")
    return grid(("side", *heads), rows)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
