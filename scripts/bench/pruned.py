"""A pruned model beside the whole one: accuracy, size, and the time of a forward pass, on the bundled encoder.

    python scripts/bench/pruned.py --out results/bench

The same LoRA is trained without pruning (share 0) and with `loraprune` at each share, from the same rows and seeds, and merged into a
plain checkpoint. Scores are of the last weights. Forward passes are those of the merged checkpoints as transformers loads them, of
made-up batches of full length, all sides in each repeat, in an order that turns. SST-2 is read from $LORAKIT_GLUE_DIR.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from measuring import made_up, ratio, timed, turned
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

import lorakit
from lorakit.artifacts.files import write_json
from lorakit.artifacts.run import environment
from lorakit.recipe.load import load_recipe

SAME = (
    "search.method=none",
    "adapter.shortcuts=[]",
    "adapter.targets=[all]",
    "model.head_start=fitted",
    "training.batch_size=16",
    "training.lr=1e-3",
    "evaluation.baselines=[]",
    "run.offline=true",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    shares = [0.0, *options.shares]
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        trained = {
            share: [train(options, share, seed, Path(name)) for seed in range(options.seeds)] for share in shares
        }
        models = {
            share: AutoModelForSequenceClassification.from_pretrained(runs[0]["merged"]).eval()
            for share, runs in trained.items()
        }
        seconds = {str(batch): latency(models, batch, options.repeats) for batch in (1, 32)}
    beside = {
        batch: {share: ratio(times[share], times[0.0]) for share in options.shares} for batch, times in seconds.items()
    }
    report: dict[str, Any] = {
        "trained": trained,
        "seconds": seconds,
        "beside the whole": beside,
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "pruned.json", json.loads(json.dumps(report, default=str)))
    for share, runs in trained.items():
        scores, size = [run["score"] for run in runs], runs[0]
        times = ", ".join(
            f"batch {batch}: {1000 * sorted(each[share])[len(each[share]) // 2]:.1f} ms"
            + (f" ({beside[batch][share]['median']:.2f} of the whole)" if share else "")
            for batch, each in seconds.items()
        )
        print(
            f"share {share:4}: {mean(scores):.3f} [{min(scores):.3f}, {max(scores):.3f}], {size['parameters']:,} parameters, "
            f"{size['bytes'] / 2**20:.1f} MiB, {times}, {mean(run['seconds'] for run in runs):.0f} s of training"
        )


def train(options: argparse.Namespace, share: float, seed: int, folder: Path) -> dict[str, Any]:
    """Train, merge, and say what came of it."""
    own = (
        f"task.name={options.task}",
        f"task.max_train_rows={options.rows}",
        f"task.max_eval_rows={options.rows}",
        f"training.epochs={options.epochs}",
        f"evaluation.every_steps={10**6}",
        f"run.seed={seed}",
        *(("adapter.method=loraprune", f"adapter.update_options={{share: {share}}}") if share else ()),
    )
    result = lorakit.train(load_recipe("demo", [*SAME, *own]), run_dir=folder / f"{share}-{seed}")
    merged = lorakit.merge(result.run_dir)
    model = AutoModelForSequenceClassification.from_pretrained(merged.out)
    return {
        "score": result.last[result.metric],
        "seconds": result.seconds,
        "merged": str(merged.out),
        "largest difference": merged.largest_difference,
        "flips": merged.flips,
        "parameters": model.num_parameters(),
        "bytes": (merged.out / "model.safetensors").stat().st_size,
    }


@torch.inference_mode()
def latency(models: dict[float, Any], rows: int, repeats: int) -> dict[float, list[float]]:
    """Seconds of a forward pass of ``rows`` rows of 64 tokens, by share and repeat; one more is not counted."""
    batch = made_up(rows, 64, torch.device("cpu"))
    del batch["labels"]
    seconds: dict[float, list[float]] = {share: [] for share in models}
    for number in range(1 + repeats):
        for share in turned(list(models), number):
            took = timed(lambda share=share: models[share](**batch))  # type: ignore[misc]
            if number:
                seconds[share].append(took)
    return seconds


if __name__ == "__main__":
    main()
