"""What a user of PEFT and the Trainer does who does not know the learning rate: try several, keep the best on held-out rows.

    python scripts/bench/peft_sweep.py --model FOLDER --train rows.csv --test test.csv --out FOLDER

Nothing of lorakit is imported. A fifth of the training rows is held out, each rate trains on the others in this one process, the run with
the least loss on the held-out rows answers. OUT/told.json has seconds and losses by rate, OUT/logits.npy the test rows' logits (rows,
labels), labels in the order of their names.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from run_glue import lora_trainer
from transformers import AutoTokenizer, set_seed

HELD_OUT = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    for name in ("train", "test", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = pd.read_csv(options.train, dtype=str, keep_default_na=False)
    labels = sorted(rows["label"].unique())
    mixed = rows.sample(frac=1, random_state=options.seed)
    held = round(HELD_OUT * len(mixed))
    parts = {
        "held": mixed[:held],
        "fit": mixed[held:],
        "test": pd.read_csv(options.test, dtype=str, keep_default_na=False),
    }
    encoded = {name: tokenized(part, tokenizer, labels, options.max_length) for name, part in parts.items()}
    tried: dict[float, Any] = {}
    for rate in options.rates:
        trainer = trained(rate, labels, encoded, tokenizer, options)
        loss = trainer.evaluate()["eval_loss"]
        tried[rate] = (loss, trainer)
    best = min(tried, key=lambda rate: tried[rate][0])
    seconds = time.perf_counter() - started
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "logits.npy", tried[best][1].predict(encoded["test"]).predictions)
    losses = {f"{rate:g}": loss for rate, (loss, _) in tried.items()}
    told = {"seconds": seconds, "rate": best, "held_losses": losses, "labels": labels}
    (options.out / "told.json").write_text(json.dumps(told))


def tokenized(rows: pd.DataFrame, tokenizer: Any, labels: list[str], length: int) -> Dataset:
    """Rows as the Trainer takes them."""
    texts = [rows["text"].tolist()] + ([rows["text_pair"].tolist()] if "text_pair" in rows else [])
    inputs = tokenizer(*texts, truncation=True, max_length=length)
    return Dataset.from_dict({**inputs, "labels": [labels.index(label) for label in rows["label"]]})


def trained(rate: float, labels: list[str], encoded: dict[str, Dataset], tokenizer: Any, options: Any) -> Any:
    """A Trainer that has trained LoRA and a new head at this rate."""
    set_seed(options.seed)
    trainer = lora_trainer(
        options.model,
        len(labels),
        tokenizer,
        encoded["fit"],
        encoded["held"],
        rank=options.rank,
        alpha=2 * options.rank,
        output_dir=str(options.out / f"{rate:g}"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        warmup_steps=0.06,  # a share, being less than 1
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
