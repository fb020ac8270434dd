"""What shifted sparse attention saves on long rows: memory and time of a step beside full attention, length by length.

    python scripts/bench/long_rows.py --out results/long-rows                                      # a small Llama of random weights
    python scripts/bench/long_rows.py --out results/long-rows --model FOLDER --data FOLDER --checkpointing      # texts of a table

Rows are documents of just so many tokens: texts of one label, joined, of a folder's train.parquet (columns text and label), or made-up
words. Sides: `full`, longlora with the model's own attention; `shifted`, longlora as it is, in groups of a quarter of the row. Each is
trained in a process of its own, --steps steps of one row behind a first one that is not counted, the order turning; then some rows are
evaluated, with full attention on both sides. Seconds are the median step's (processor time where there is one CPU thread); memory is what
a step takes beside the loaded model, its adapters and their moments: the growth of the resident high-water mark, or a GPU's allocator's.
Lines are printed, and written to OUT/lines.jsonl, as they come.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from measuring import clock, timed, training_of, turned

SIDES: dict[str, list[str]] = {"full": ["adapter.updates=[]"], "shifted": []}
WORDS = ["a", "film", "of", "quiet", "wonders", "and", "not", "one", "dull", "scene", "the", "old", "man", "sun"]
ROWS, EVALUATED, SEED = 8, 2, 0
WIDTH, LAYERS = 256, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", help="a folder or a hub name; a Llama of random weights by default")
    parser.add_argument("--data", type=Path, help="a folder with train.parquet; made-up words by default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true", help="layers are computed again on the way back")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measured(json.loads(options.job))))
        return
    if options.out is None:
        parser.error("--out is missing")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, (options.out / "lines.jsonl").open("a", encoding="utf-8") as lines:
        folder = Path(name)
        model = options.model or str(random_llama(folder))
        for length in options.lengths:
            file = write_documents(folder / f"{length}.csv", length, options.data)
            for number in range(options.rounds):
                for side in turned(list(SIDES), number):
                    job = {"settings": settings(options, model, file, length, side), "steps": options.steps}
                    found = {"length": length, "side": side, "round": number, **run(job)}
                    lines.write(json.dumps(found | {"model": options.model or "random"}) + "\n")
                    lines.flush()
                    print(told(found), flush=True)


def told(found: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"{found['length']:6,} tokens  {found['side']:8} {found['seconds']:8.2f} s a step {found['mib']:8.0f} MiB   "
        f"loss {found['loss']:.3f}   evaluation {found['evaluation']:.2f} s a row"
    )


def settings(options: argparse.Namespace, model: str, file: Path, length: int, side: str) -> list[str]:
    """The recipe: documents of one length, a row a step."""
    return [
        f"model.name={model}",
        "model.rope_scaling=auto",
        "task.name=custom",
        f"task.train={file}",
        f"task.validation={file}",
        "task.text=text",
        "task.label=label",
        f"task.max_eval_rows={EVALUATED}",
        f"task.max_length={length}",
        "adapter.method=longlora",
        "adapter.targets=[q,k,v,o]",
        "adapter.shortcuts=[]",
        "search.method=none",
        "training.batch_size=1",
        f"training.gradient_checkpointing={str(options.checkpointing).lower()}",
        "evaluation.batch_size=1",
        "evaluation.baselines=[]",
        f"run.seed={SEED}",
        *SIDES[side],
    ]


# -- the rows, and a model without a past ----------------------------------------------------------------------------------


def write_documents(path: Path, tokens: int, data: Path | None) -> Path:
    """A file of ``ROWS`` documents, each of texts of one label, of at least so many words, of which each is a token or more."""
    draw = random.Random(SEED)
    texts: dict[str, list[str]] = defaultdict(list)
    if data is None:
        texts |= {label: [" ".join(draw.choices(WORDS, k=60)) for _ in range(100)] for label in ("dull", "warm")}
    else:
        import pyarrow.parquet as parquet

        for row in parquet.read_table(data / "train.parquet", columns=["text", "label"]).to_pylist():
            texts[row["label"]].append(row["text"])
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "label"])
        for row in range(ROWS):
            label = sorted(texts)[row % len(texts)]
            words: list[str] = []
            while len(words) < tokens:
                words += draw.choice(texts[label]).split()
            table.writerow([" ".join(words), label])
    return path


def random_llama(folder: Path) -> Path:
    """A small Llama with the bundled encoder's tokenizer, pretrained on nothing for rows of 1,024 tokens."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel
    from transformers.utils import logging

    from lorakit.backbone.model_folder import find_checkpoint
    from lorakit.recipe.schema import ModelSection

    source = find_checkpoint(ModelSection(name="bundled:minilm"), offline=True)
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=10**6)
    logging.disable_progress_bar()
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    LlamaModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


# -- in a process of its own -----------------------------------------------------------------------------------------------


def run(job: dict[str, Any]) -> dict[str, float]:
    """What a side says of itself."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds and MiB of a step, the last loss, and seconds of a row that is evaluated."""
    from lorakit.training.loop import step

    with tempfile.TemporaryDirectory() as folder:
        training, _ = training_of("demo", job["settings"], Path(folder) / "run")
        batches = training.loader.step_batches(0)
        training.model.train()
        step(training, next(batches))  # which makes the moments
        begin_memory()
        seconds = [timed(lambda: step(training, next(batches))) for _ in range(job["steps"])]
        mib = memory()
        loss = float(training.losses[-1])
        training.model.eval()
        evaluation = timed(training.evaluate) / EVALUATED
    return {
        "seconds": statistics.median(seconds),
        "mib": mib,
        "loss": loss,
        "evaluation": evaluation,
        "clock": clock(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def begin_memory() -> None:
    """From here on memory is measured."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        BEFORE["mib"] = torch.cuda.memory_allocated() / 2**20
        return
    Path("/proc/self/clear_refs").write_text("5")
    BEFORE["mib"] = resident("VmRSS")


def memory() -> float:
    """MiB at the highest since then, less what there was."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20 - BEFORE["mib"]
    return resident("VmHWM") - BEFORE["mib"]


def resident(field: str) -> float:
    """MiB of this process, by the kernel."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(found.split()[1]) / 1024


BEFORE: dict[str, float] = {}

if __name__ == "__main__":
    main()
