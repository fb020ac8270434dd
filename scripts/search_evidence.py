"""What adaptive allocation is worth: uniform LoRA against every search at equal final parameters, several seeds, tuned alike.

    python scripts/search_evidence.py --out results/evidence --tasks mrpc --budgets 8 --seeds 0 1 2

Tasks: mrpc, rte and sst2 (a fixed subset of 10,000 rows) from $LORAKIT_GLUE_DIR, on the bundled encoder. A budget is what uniform LoRA of
that rank costs on all linear sites. Each side's learning rate is chosen from one small grid by the last epoch's mean accuracy on a held-out
fifth of the training rows, with seeds that are not used again; the validation rows are seen once, at the end. Runs are made and
compared by `lorakit compare`: what is done is not repeated, several processes may work on one folder, and the grid can grow.
`--workers` does several sides at a time, each in a process of its own: on a GPU a small encoder leaves room for many; with `--graphs` the
sides whose steps are all alike replay them as CUDA graphs, which changes no number but padding's. Ctrl-C or SIGTERM ends all of them,
and what is finished is kept.
`peft_adalora` is PEFT's AdaLoRA on the same data, batches, optimiser and schedule; its budget counts ranks, so that its parameters
may end elsewhere: the table shows them.
Writes OUT/TASK-rBUDGET/comparison.json, one for each table that is printed, and OUT/evidence.json with all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from peft_adalora import train_peft

from lorakit.artifacts.files import write_json, write_text
from lorakit.artifacts.lock import claimed
from lorakit.artifacts.run import environment
from lorakit.errors import Interrupted, LorakitError
from lorakit.reporting.stats import paired_difference, summarise
from lorakit.workflow.experiments.compare import compare

ROWS = {"sst2": 10_000}
TEXTS = {"mrpc": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2"), "sst2": ("sentence", None)}
HELD_OUT = 0.2
PEFT = "peft_adalora"
POLL = 5.0  # seconds
SHRINKING = {"every": 0.05, "warmup": 0.1, "tail": 0.3}


def sides(rank: int) -> dict[str, dict[str, Any]]:
    """Name -> what its recipe says of adapter and search; all end at the parameters of uniform rank ``rank``."""
    budget, alpha = (
        {"uniform_rank": rank},
        2 * rank,
    )  # one alpha for all: s = alpha / r, so that a site learns alike fast at any rank
    return {
        "lora": {"adapter": {"rank": rank, "alpha": alpha}},
        "paper": {
            "adapter": {"rank": 4 * rank, "alpha": alpha},
            "search": {"method": "heterolora", "preset": "paper", "unit": "parameters", "enable": None, **budget},
        },
        "best": {
            "adapter": {"rank": 2 * rank, "alpha": alpha},
            "search": {"method": "heterolora", "preset": "best", **budget},
        },
        "adalora": {
            "adapter": {"method": "adalora", "rank": 3 * rank // 2, "alpha": 3 * rank},
            "search": {"method": "adalora", **SHRINKING, **budget},
        },
        "gradsvd": {
            "adapter": {"rank": 2 * rank, "alpha": 2 * alpha},
            "search": {"method": "gradsvd", "options": {"floor": str(rank // 2)}, **budget},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="bundled:minilm")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "rte", "sst2"], choices=list(TEXTS))
    parser.add_argument("--budgets", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=[1000, 1001])
    parser.add_argument("--sides", nargs="+", default=[*sides(2), PEFT])
    parser.add_argument("--lrs", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--workers", type=int, default=1, help="processes that train at the same time")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs where a side can have them")
    options = parser.parse_args()
    if options.workers > 1:
        fill(options)
    tables = []
    for task in options.tasks:
        files = split(task, options.out / "data")
        for budget in options.budgets:
            tables.append(one_table(task, budget, files, options))
            write_json(options.out / "evidence.json", {"tables": tables, "environment": environment()})
            show(tables[-1])


def fill(options: argparse.Namespace) -> None:
    """Train all sides of all tasks and budgets, several at a time; the tables then find them done."""
    for task in options.tasks:
        split(task, options.out / "data")
    context = multiprocessing.get_context("spawn")  # a GPU is not shared by forks
    jobs: Any = context.Queue()
    for job in [(t, b, side) for b in options.budgets for t in options.tasks for side in options.sides]:
        jobs.put(job)
    workers = [context.Process(target=work, args=(jobs, options)) for _ in range(options.workers)]
    for worker in workers:
        jobs.put(None)
        worker.start()
    for worker in workers:
        worker.join()


def work(jobs: Any, options: argparse.Namespace) -> None:
    """Take jobs until there are no more, or until a stop is asked for."""
    while (job := jobs.get()) is not None:
        task, budget, side = job
        files = split(task, options.out / "data")
        try:
            if side == PEFT:
                peft_side(task, budget, files, options.out / f"{task}-r{budget}", options)
            else:
                compared(task, budget, [side], files, options)
        except Interrupted:
            return
        except LorakitError as error:  # of one side; the table names what is missing
            print(f"{task}, rank {budget}, {side}: {error}", flush=True)


def split(task: str, folder: Path) -> dict[str, Path]:
    """The task's rows as files: train and validation, and train once more in the part to fit and the part held out for tuning."""
    glue = Path(os.environ["LORAKIT_GLUE_DIR"]) / task
    files = {part: folder / f"{task}-{part}.parquet" for part in ("train", "validation", "fit", "held")}
    if not all(file.exists() for file in files.values()):
        folder.mkdir(parents=True, exist_ok=True)
        train = pd.read_parquet(glue / "train.parquet").sample(frac=1, random_state=0)[: ROWS.get(task)]
        held = round(HELD_OUT * len(train))
        parts = {"train": train, "validation": pd.read_parquet(glue / "validation.parquet")}
        for part, rows in {**parts, "held": train[:held], "fit": train[held:]}.items():
            rows.to_parquet(files[part])
    return files


def recipe(
    task: str, side: dict[str, Any], lr: float, fit: Path, held: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """A whole recipe."""
    first, second = TEXTS[task]
    return {
        "model": {"name": options.model},
        "task": {
            "name": "custom",
            "train": str(fit.absolute()),
            "validation": str(held.absolute()),
            "text": first,
            "text_pair": second,
            "label": "label",
            "metric": "accuracy",
        },
        "training": {
            "epochs": options.epochs,
            "batch_size": 32,
            "lr": lr,
            "precision": options.precision,
            "cuda_graphs": options.graphs and side.get("search", {}).get("method") != "heterolora",
        },
        "run": {"offline": True, "keep_checkpoints": 1},
        **{section: {**values} for section, values in side.items() if section != "adapter"},
        "adapter": {"targets": ["all"], **side["adapter"]},
    }


def one_table(task: str, budget: int, files: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Tune, train and compare all sides of one task and budget."""
    rates, result = compared(task, budget, options.sides, files, options)
    table = {
        "task": task,
        "budget": budget,
        "epochs": options.epochs,
        "grid": options.lrs,
        "rates": rates,
        "comparison": result,
    }
    if PEFT in options.sides:
        table[PEFT] = peft_side(task, budget, files, options.out / f"{task}-r{budget}", options)
    return table


def compared(
    task: str, budget: int, names: list[str], files: dict[str, Path], options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, Any]]:
    """lorakit's own of these sides, tuned and trained: their rates, and the comparison."""
    folder = options.out / f"{task}-r{budget}"
    known = sides(budget)
    rates = {name: tuned(task, name, known[name], files, folder, options) for name in names if name in known}
    written = []
    for name, lr in rates.items():
        write(folder / f"{name}.yaml", recipe(task, known[name], lr, files["train"], files["validation"], options))
        written.append(str(folder / f"{name}.yaml"))
    return rates, compare(written, seeds=options.seeds, folder=folder / "runs").to_dict()


def tuned(
    task: str, name: str, side: dict[str, Any], files: dict[str, Path], folder: Path, options: argparse.Namespace
) -> float:
    """The learning rate with the best last epoch on the held-out training rows."""
    paths = {}
    for lr in options.lrs:
        paths[lr] = folder / "tuning" / f"{name}-{lr:g}.yaml"
        write(paths[lr], recipe(task, side, lr, files["fit"], files["held"], options))
    result = compare(
        [str(path) for path in paths.values()], seeds=options.tuning_seeds, folder=folder / "tuning" / "runs"
    )
    scores = {side.name: side.last.mean for side in result.sides}
    return max(options.lrs, key=lambda lr: scores[f"{name}-{lr:g}"])


def peft_side(
    task: str, budget: int, files: dict[str, Path], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """PEFT's AdaLoRA, tuned and trained the same way; its runs are kept as JSON."""
    side = sides(budget)["adalora"]

    def run(lr: float, seed: int, fit: str, held: str) -> dict[str, Any]:
        file = folder / PEFT / f"{fit}-{lr:g}-{seed}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        while not file.exists():
            with claimed(file.with_suffix(".lock")) as lock:
                if lock.mine and not file.exists():
                    path = file.with_suffix(".yaml")
                    write(path, recipe(task, side, lr, files[fit], files[held], options))
                    write_json(file, train_peft(path, seed, budget, SHRINKING))
            if not file.exists():
                time.sleep(POLL)  # another process trains it
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def held(lr: float) -> float:
        return sum(run(lr, seed, "fit", "held")["last"] for seed in options.tuning_seeds)

    lr = max(options.lrs, key=held)
    return {"lr": lr, "runs": [run(lr, seed, "train", "validation") | {"seed": seed} for seed in options.seeds]}


def write(path: Path, values: dict[str, Any]) -> Path:
    """The recipe as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def show(table: dict[str, Any]) -> None:
    """One line a side: parameters, last and best epoch, the paired difference to the first side, time."""
    compared = table["comparison"]["sides"]
    first = {run["seed"]: run["last"]["accuracy"] for run in compared[0]["runs"]}
    base = compared[0]["seconds"]
    rows = [
        (
            side["name"],
            table["rates"][side["name"]],
            side["adapter_parameters"],
            side["seconds"],
            [(run["seed"], run["last"]["accuracy"], run["best"]["accuracy"]) for run in side["runs"]],
        )
        for side in compared
    ]
    if PEFT in table:
        runs = table[PEFT]["runs"]
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        told = [(run["seed"], run["last"], run["best"]) for run in runs]
        rows.append((PEFT, table[PEFT]["lr"], runs[0]["parameters"], seconds, told))
    print(
        f"\n{table['task']}, budget of uniform rank {table['budget']}, {table['epochs']:g} epochs, {len(first)} seeds"
    )
    ends = (min(table["grid"]), max(table["grid"]))
    for name, lr, parameters, seconds, runs in rows:
        last, best = summarise([run[1] for run in runs]), summarise([run[2] for run in runs])
        pairs = [(value, first[seed]) for seed, value, _ in runs if seed in first]
        gap = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
        print(
            f"{name:13} lr {lr:<7g} {parameters:>9,}  last {last.mean:.4f} ± {last.sd:.4f}  best {best.mean:.4f} ± {best.sd:.4f}  "
            f"difference {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]  {seconds / base:.2f} x time"
            f"{'  an end of the grid of rates: extend it' if lr in ends else ''}"
        )


if __name__ == "__main__":
    main()
