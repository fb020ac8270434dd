"""MRPC as transformers' own `run_glue.py` trains it, with PEFT's LoRA: the Trainer, dynamic padding, rows in random order.

    python scripts/bench/run_glue.py --model FOLDER --data GLUE/mrpc --out FOLDER --epochs 3 --seed 0

Nothing of lorakit is imported. Learning rate, warm-up, decay, clipping, evaluation batches and checkpoints are those that
`end_to_end.py` gives lorakit. OUT/scores.json has the scores after every epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

SITES = r".*\.encoder\.layer\.\d+\..*(query|key|value|dense)"  # every linear module of BERT's layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="of the training rows, the first so many")
    for name in ("rank", "alpha", "batch_size", "eval_batch_size", "max_length", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, required=True)
    for name in ("epochs", "lr", "warmup", "weight_decay", "clip"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, required=True)
    options = parser.parse_args()
    set_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    files = {split: str(options.data / f"{split}.parquet") for split in ("train", "validation")}
    rows = load_dataset("parquet", data_files=files)
    if options.rows:
        rows["train"] = rows["train"].select(range(options.rows))
    rows = rows.map(
        lambda batch: tokenizer(
            batch["sentence1"], batch["sentence2"], truncation=True, max_length=options.max_length, padding=False
        ),
        batched=True,
    )
    trainer = lora_trainer(
        options.model,
        2,
        tokenizer,
        rows["train"],
        rows["validation"],
        rank=options.rank,
        alpha=options.alpha,
        compute_metrics=scores,
        output_dir=str(options.out),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size,
        learning_rate=options.lr,
        warmup_steps=options.warmup,  # a share, being less than 1
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        seed=options.seed,
    )
    trainer.train()
    trainer.save_model()
    history = [record for record in trainer.state.log_history if "eval_accuracy" in record]
    result: dict[str, Any] = {
        "epochs": [{name: record[f"eval_{name}"] for name in ("accuracy", "f1")} for record in history],
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
    }
    (options.out / "scores.json").write_text(json.dumps(result))


def lora_trainer(
    folder: str,
    labels: int,
    tokenizer: Any,
    train: Any,
    validation: Any,
    *,
    rank: int,
    alpha: int,
    compute_metrics: Any = None,
    **arguments: Any,
) -> Any:
    """A Trainer for PEFT's LoRA on every linear module and a new head, with dynamic padding; arguments are the Trainer's own."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels, dtype="float32")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=SITES, task_type="SEQ_CLS")
    return Trainer(
        model=get_peft_model(model, config),
        args=TrainingArguments(**arguments),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
    )


def scores(predicted: Any) -> dict[str, float]:
    """MRPC's two metrics."""
    decided = np.argmax(predicted.predictions, axis=1)
    return {"accuracy": accuracy_score(predicted.label_ids, decided), "f1": f1_score(predicted.label_ids, decided)}


if __name__ == "__main__":
    main()
