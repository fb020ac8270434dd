"""SetFit on a csv of texts and labels, for `own_data.py`: runs in an environment of its own that has setfit, and knows nothing of lorakit.

python scripts/setfit_peer.py MODEL rows.csv test.csv answers.csv --seconds 120
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="of training, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from datasets import Dataset  # type: ignore[import-not-found,unused-ignore]
    from setfit import SetFitModel, Trainer, TrainingArguments  # type: ignore[import-not-found,unused-ignore]
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        """Ends the training when its time is over."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = time.perf_counter() - self.started > options.seconds

    rows, test = (pd.read_csv(file, dtype=str) for file in (options.rows, options.test))
    labels = sorted(rows["label"].unique())
    data = Dataset.from_dict({"text": rows["text"].tolist(), "label": [labels.index(label) for label in rows["label"]]})
    arguments = TrainingArguments(
        batch_size=16,
        num_epochs=1,
        seed=options.seed,
        report_to="none",
        save_strategy="no",
        output_dir=str(options.answers.parent / "setfit"),
    )
    model = SetFitModel.from_pretrained(str(options.model))
    started = time.perf_counter()
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Stop()])
    trainer.train()
    took = time.perf_counter() - started
    answers = [labels[int(place)] for place in model.predict(test["text"].tolist(), batch_size=32)]
    pd.DataFrame({"label": answers}).to_csv(options.answers, index=False)
    print(json.dumps({"train_seconds": took, "steps": trainer.st_trainer.state.global_step}))


if __name__ == "__main__":
    main()
