"""What the literature says of adapters, checked on a real encoder: one training a side and seed, then `lorakit analyze`.

    python scripts/lessons.py --out results/lessons --rows 3000 --test-rows 1000 --seeds 0 1 2

1. q and v at rank 4 against q alone, and each other matrix, at one budget (Hu et al. 2021, table 5)
2. how low the rank may go: 1, 2, 4, 8, 64 on q and v (table 6)
3. whether the first directions of ranks 8 and 64 agree, the rest not (figure 3); the two have different seeds, or their starts agree
4. whether dW amplifies what W neglects (table 7)
5. whether HeteroLoRA has v on more often than q
6. whether GLoRA's evolution leaves D and E unused, which chance does in a third of the sites
7. the sign of the correlation of dM and dD for LoRA, DoRA and full fine-tuning (Liu et al. 2024, figure 2), on q and v

Each training is a run in OUT, each result is written to OUT as it comes; a call that was stopped goes on. Differences are paired by seed,
with the 95 % interval of Student's t. The task is Rotten Tomatoes unless --set says another.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from evidence_stats import student
from kept import kept
from readme_tables import grid

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.workflow.resume import can_go_on

RECIPE = (
    "model.name=bundled:minilm",
    "task.name=rotten_tomatoes",
    "task.max_length=64",
    "search.method=none",
    "adapter.shortcuts=[]",
    "training.epochs=3",
    "training.batch_size=16",
    "training.lr=1e-3",
    "evaluation.baselines=[]",
    "evaluation.calibrate=false",
    "run.offline=true",
)
POINTS = ("run.checkpoint_every=0.25", "run.keep_checkpoints=40")
SEARCH = ("search.method=heterolora", "search.enable=0.25", "search.every=0.2", "search.scoring=streaming")
ONE_BUDGET = {"q": ("q", 8), "k": ("k", 8), "v": ("v", 8), "o": ("o", 8), "qv": ("q,v", 4), "qkvo": ("q,k,v,o", 2)}
RANKS = (1, 2, 4, 8, 64)
POPULATION = 20
GLORA = ("adapter.method=glora", "adapter.targets=[q,v]", "adapter.rank=4", "search.method=glora")


def lora(targets: str, rank: int) -> tuple[str, ...]:
    return (f"adapter.targets=[{targets}]", f"adapter.rank={rank}")


SIDES: dict[str, tuple[str, ...]] = {
    **{f"only-{name}": lora(targets, rank) for name, (targets, rank) in ONE_BUDGET.items() if name != "qv"},
    **{f"rank-{rank}": (*lora("q,v", rank), *POINTS) for rank in RANKS},
    "dora": ("adapter.method=dora", *lora("q,v", 4), *POINTS),
    "full": ("adapter.method=full", "adapter.targets=", "training.lr=3e-5", *POINTS),
    "heterolora": (*lora("q,k,v,o,up,down", 8), *SEARCH),
}
"""Side -> what it changes; that of q and v at one budget is ``rank-4``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=1000, help="validation rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--generations", type=int, default=10, help="of GLoRA's evolution; 0: none")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE for every training")
    options = parser.parse_args()
    for seed in options.seeds:
        for side in SIDES:
            result(options, f"train-{side}-{seed}", lambda side=side, seed=seed: train(options, side, seed))
        if options.generations:
            result(options, f"glora-{seed}", lambda seed=seed: evolve(options, seed))
    for place, seed in enumerate(options.seeds):
        for side in ("rank-4", "rank-64", "dora", "full"):
            result(options, f"analyze-{side}-{seed}", lambda side=side, seed=seed: analyze(options, [(side, seed)]))
        if len(options.seeds) > 1:
            other = options.seeds[(place + 1) % len(options.seeds)]
            for first, second in (("rank-8", "rank-64"), ("rank-64", "rank-64")):
                pair = [(first, seed), (second, other)]
                result(options, f"pair-{first}-{second}-{seed}", lambda pair=pair: analyze(options, pair))
    for title, text in tables(options):
        print(f"\n{title}\n\n{text}")


def result(options: argparse.Namespace, name: str, make: Callable[[], dict[str, Any]]) -> None:
    """Have the result of this name, made where it is not there yet."""
    asked = {
        "rows": options.rows,
        "test_rows": options.test_rows,
        "generations": options.generations,
        "set": options.set,
    }
    kept(options.out / f"{name}.json", asked, make)


def settings(options: argparse.Namespace, seed: int, own: Sequence[str]) -> list[str]:
    """KEY=VALUE of a training: the last of each key."""
    sizes = (f"task.max_train_rows={options.rows}", f"task.max_eval_rows={options.test_rows}", f"run.seed={seed}")
    return [*{each.partition("=")[0]: each for each in (*RECIPE, *sizes, *own, *options.set)}.values()]


def train(options: argparse.Namespace, side: str, seed: int) -> dict[str, Any]:
    """One run's score; of a search what it gave to v and to q."""
    run = Run(options.out / f"{side}-{seed}")
    if not run.finished:
        lorakit.train("demo", settings(options, seed, SIDES[side]), run_dir=run.path, resume=can_go_on(run))
    summary = run.summary()
    told = {name: summary[name] for name in ("metric", "last", "adapter_parameters", "seconds")}
    if side == "heterolora":
        compared = lorakit.report(run.path).value_against_query
        told |= (
            {"v": compared.v, "q": compared.q, "layers": compared.layers, "layers_v": compared.layers_v}
            if compared
            else {}
        )
    return told


def evolve(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What GLoRA's evolution leaves out of every site."""
    place = options.out / f"evolved-{seed}"
    evolution = f"search.options={{generations: {options.generations}, population: {POPULATION}}}"
    given = settings(options, seed, [*GLORA, evolution])
    found = lorakit.evolve("demo", given, run_dir=place, resume=place.exists())
    return {"sites": [site.configuration for site in found.sites], "fitness": found.fitness, "whole": found.whole}


def analyze(options: argparse.Namespace, runs: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """What `lorakit analyze` tells of these runs, without features."""
    folders = [f"{side}-s{seed}={options.out / f'{side}-{seed}'}" for side, seed in runs]
    return lorakit.analyze(*folders, rows=0, weights="last").to_dict()


# -- what they come to -------------------------------------------------------------------------------------------------


def tables(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Title and table of every lesson that there are results of."""
    found = [
        ("1. One budget on other matrices (rank-4: q and v)", one_budget(options)),
        ("2. Lower ranks on q and v", ranks(options)),
        ("3. Directions that two runs share", shared(options)),
        ("4. What dW amplifies", amplified(options)),
        ("5. HeteroLoRA: v against q", value_against_query(options)),
        ("6. GLoRA: what is left unused", unused(options)),
        ("7. Correlation of dM and dD", correlations(options)),
    ]
    return [(title, text) for title, text in found if text]


def results(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """Those of a name, of each seed that has one."""
    files = [options.out / f"{name}-{seed}.json" for seed in options.seeds]
    return [read_json(file) for file in files if file.exists()]


def score(result: dict[str, Any]) -> float:
    return float(result["last"][result["metric"]])


def against(options: argparse.Namespace, sides: Sequence[str], reference: str) -> str:
    """Mean score and parameters of each side, and its difference to the reference, paired by seed."""
    rows = []
    base = [score(result) for result in results(options, f"train-{reference}")]
    for side in sides:
        found = results(options, f"train-{side}")
        scores = [score(result) for result in found]
        gap = "" if side == reference or len(scores) != len(base) else student(100 * np.subtract(scores, base), "+.2f")
        rows.append((side, f"{found[0]['adapter_parameters']:,}", f"{100 * fmean(scores):.2f}", gap))
    return grid(("side", "adapter parameters", "score in %", f"less that of {reference}, points"), rows)


def one_budget(options: argparse.Namespace) -> str:
    return against(options, ["rank-4", *(f"only-{name}" for name in ONE_BUDGET if name != "qv")], "rank-4")


def ranks(options: argparse.Namespace) -> str:
    return against(options, [f"rank-{rank}" for rank in RANKS], f"rank-{RANKS[-1]}")


def shared(options: argparse.Namespace) -> str:
    """phi of the first direction and of all, by side and role, beside random subspaces."""
    rows = []
    for first, second in (("rank-8", "rank-64"), ("rank-64", "rank-64")):
        sites: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for found in results(options, f"pair-{first}-{second}"):
            for side in found["pairs"][0]["sides"]:
                for site in side["sites"]:
                    sites.setdefault((side["side"], site["role"]), []).append(site)
        for (side, role), own in sites.items():
            means = [fmean(site[name] for site in own) for name in ("first", "first_chance", "whole", "whole_chance")]
            rows.append((f"{first} and {second}: {side}, {role}", str(len(own)), *(f"{mean:.3f}" for mean in means)))
    heads = ("runs, side, role", "sites", "phi of the first", "random", "phi of all", "random")
    return grid(heads, rows) if rows else ""


def amplified(options: argparse.Namespace) -> str:
    """Amplification by role, and what it would be in W's strongest and in random directions."""
    rows = []
    for side in ("rank-4", "rank-64", "dora", "full"):
        sites = [site for found in results(options, f"analyze-{side}") for site in found["runs"][0]["sites"]]
        for role in ("q", "v"):
            own = [site for site in sites if site["role"] == role]
            if own:
                names = (
                    "relative",
                    "amplification",
                    "amplification_top",
                    "amplification_random",
                    "effective_rank",
                    "chance_rank",
                )
                rows.append((f"{side}, {role}", *(f"{np.median([site[name] for site in own]):.3g}" for name in names)))
    return (
        grid(("side, role", "dW / W", "amplified", "if W's strongest", "if random", "effective rank", "random"), rows)
        if rows
        else ""
    )


def value_against_query(options: argparse.Namespace) -> str:
    found = [result for result in results(options, "train-heterolora") if "v" in result]
    rows = [
        (f"{result['v']:.3f}", f"{result['q']:.3f}", f"{result['layers_v']} of {result['layers']}") for result in found
    ]
    return grid(("v on, share of ticks", "q on", "layers where v was on more"), rows) if rows else ""


def unused(options: argparse.Namespace) -> str:
    """How often each letter is none, and how often chance would have it."""
    from lorakit.adapters.deltas.glora import CHOICES, NONE

    sites = [site for result in results(options, "glora") for site in result["sites"]]
    rows = [
        (
            letter,
            f"{fmean(site[letter] == NONE for site in sites):.2f}",
            f"{1 / len(CHOICES[letter]):.2f}",
            str(len(sites)),
        )
        for letter in CHOICES
        if sites
    ]
    return grid(("letter", "share of sites without it", "by chance", "sites"), rows) if rows else ""


def correlations(options: argparse.Namespace) -> str:
    """Of each side and role the mean over seeds, beside random updates of the same ranks and norms."""
    rows = []
    for side in ("rank-4", "rank-64", "dora", "full"):
        for role in ("q", "v"):
            own = [
                entry
                for found in results(options, f"analyze-{side}")
                for entry in found["runs"][0]["correlations"]
                if entry["role"] == role and entry["correlation"] is not None
            ]
            if own:
                values = [entry["correlation"] for entry in own]
                random = [entry["random_correlation"] for entry in own if entry["random_correlation"] is not None]
                spread = f"{min(values):+.2f} to {max(values):+.2f}"
                rows.append(
                    (f"{side}, {role}", f"{fmean(values):+.2f}", spread, f"{fmean(random):+.2f}" if random else "")
                )
    return grid(("side, role", "correlation", "over seeds", "random"), rows) if rows else ""


if __name__ == "__main__":
    main()
