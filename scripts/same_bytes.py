"""Do two versions of lorakit train the same recipes to the same bytes?

    python scripts/same_bytes.py REVISION

Trains eleven recipes twice, by the code of this checkout and by that of the named git revision: the bundled encoder on the bundled
sentences, twelve steps each. Compared are the adapter's and the best adapter's tensors and descriptions, metrics, timeline and
summary, wall-clock seconds and paths left out. Prints a table, writes JSON (`--out`), exit code 1 where anything differs. Takes about
ten minutes on two cores. Made for changes that move code and should change nothing.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
SMALL = [
    "extends: demo",
    "adapter: {targets: [q, k, v, o, up, down], shortcuts: [], rank: 8, dropout: 0.1}",
    "search: {method: none}",
    "task: {max_train_rows: 96, max_eval_rows: 48}",
    "training: {epochs: 1, batch_size: 8}",
    "run: {log_every: 1, checkpoint_every: 0.5}",
]
COMPARED = ("*.safetensors", "lorakit.json", "adapter_config.json", "*.jsonl", "summary.json", "search.json")
VOLATILE = {"seconds", "search_seconds", "supernet_seconds", "run_dir", "folder", "emitted"}
SEARCHED = ("search.method=heterolora", "adapter.shortcuts=[res1,res2,in,cut,mid]", "search.batches=2")


@dataclass(frozen=True)
class Case:
    """A recipe: its KEY=VALUE arguments, and spellings of those whose names have changed, of which the first accepted one counts."""

    name: str
    changes: tuple[str, ...] = ()
    spellings: tuple[tuple[str, ...], ...] = ((),)
    command: str = "train"
    processes: int = 1


CASES = [
    Case("lora"),
    Case("dora", ("adapter.method=dora",)),
    Case("pissa", ("adapter.method=pissa", "training.lr=1e-4")),
    Case("prefix", ("adapter.method=prefix_tuning", "adapter.dropout=0", "adapter.rank=4")),
    Case("heterolora", (*SEARCHED, "search.scoring=separate")),
    Case("streaming", (*SEARCHED, "search.scoring=streaming")),
    Case("adalora", ("adapter.method=adalora", "search.method=adalora", "search.every=0.1")),
    Case("dylora", ("search.method=dylora",)),
    Case(
        "glora",
        ("adapter.method=glora", "adapter.dropout=0", "training.max_steps=6"),
        (
            ("search.population=4", "search.generations=2", "search.parents=2"),  # refused where these are options,
            ("search.options={population: 4, generations: 2, parents: 2}",),  # which had no effect where they were keys
        ),
        command="search",
    ),
    Case("csv", ("task.name=custom", "task.train=reviews.csv", "task.text=review", "task.label=verdict")),
    Case("two processes", (*SEARCHED, "search.scoring=separate"), processes=2),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="the git revision to compare with")
    parser.add_argument("--only", nargs="*", help="names of recipes")
    parser.add_argument("--out", type=Path, default=Path("build/same_bytes.json"))
    parser.add_argument(
        "--keep", type=Path, help="a folder for the runs, kept; those that lie in it are not made again"
    )
    asked = parser.parse_args()
    cases = [case for case in CASES if not asked.only or case.name in asked.only]
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep.resolve() if asked.keep else Path(scratch)
        before = checkout(asked.revision, Path(scratch) / "before")
        rows = []
        for case in cases:
            old, new = (
                digests(run(case, code, folder / name / case.name))
                for name, code in (("before", before), ("after", HERE))
            )
            differ = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            rows.append({"recipe": case.name, "files": len(old), "differ": differ})
            print(
                f"{case.name:<15}{len(old):>3} files  {'equal' if not differ else 'DIFFER: ' + ', '.join(differ)}",
                flush=True,
            )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"revision": asked.revision, "recipes": rows}, indent=2) + "\n")
    return int(any(row["differ"] for row in rows))


def checkout(revision: str, target: Path) -> Path:
    """The code of a revision, in a folder of its own."""
    subprocess.run(["git", "clone", "--quiet", str(HERE), str(target)], check=True)
    subprocess.run(["git", "-C", str(target), "checkout", "--quiet", revision], check=True)
    return target


def run(case: Case, code: Path, folder: Path) -> Path:
    """The run's folder after training the case by the package in ``code``."""
    found = folder / "runs" / "small-0"
    if (folder / "done").exists():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text("\n".join(SMALL) + "\n")
    reviews(folder / "reviews.csv")
    for spelling in case.spellings:
        done = subprocess.run(
            command(case, spelling), cwd=folder, env=environment(code), capture_output=True, text=True, check=False
        )
        if done.returncode != 2:
            break
    if done.returncode:
        raise SystemExit(f"{case.name} by {code}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    (folder / "done").touch()
    return found


def command(case: Case, spelling: tuple[str, ...]) -> list[str]:
    """The command line of a case."""
    arguments = ["-m", "lorakit", case.command, "small.yaml", *case.changes, *spelling]
    if case.command == "search":
        return [sys.executable, *arguments, "--method", "glora", "--run-dir", "runs/small-0"]
    if case.processes > 1:
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(case.processes)]
        return [sys.executable, *launch, *arguments]
    return [sys.executable, *arguments]


def environment(code: Path) -> dict[str, str]:
    """This environment, with the package of ``code`` before any installed one."""
    return {
        **os.environ,
        "PYTHONPATH": str(code),
        "OMP_NUM_THREADS": "2",
        "HF_HUB_OFFLINE": "1",
        "LORAKIT_CACHE_DIR": "",
    }


def reviews(path: Path) -> None:
    """120 made-up reviews of two verdicts, a third of them with a comma or a line break inside."""
    words = [
        "a",
        "film",
        "of",
        "quiet",
        "wonders",
        "and",
        "dull",
        "hours",
        "that",
        "never",
        "ends",
        "nor",
        "begins",
        "well",
    ]
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "verdict"])
        for row in range(120):
            good = row * 7 % 3 == 0
            text = " ".join(words[(row * step) % len(words)] for step in range(1, 9))
            writer.writerow(
                [f"{text}{[' ', ', ', chr(10)][row % 3]}{'bright' if good else 'grey'}", "good" if good else "bad"]
            )


def digests(run: Path) -> dict[str, str]:
    """File -> sha256 of what must not change in it, for all files of a run that are compared."""
    found = {}
    for pattern in COMPARED:
        for path in run.rglob(pattern):
            found[str(path.relative_to(run))] = hashlib.sha256(content(path)).hexdigest()
    return found


def content(path: Path) -> bytes:
    """The bytes of a file; of records without what differs from one time to the next."""
    if path.suffix == ".jsonl":
        return json.dumps([steady(json.loads(line)) for line in path.read_text().splitlines()]).encode()
    return json.dumps(steady(json.loads(path.read_text()))).encode() if path.suffix == ".json" else path.read_bytes()


def steady(record: Any) -> Any:
    """A record without wall-clock seconds and paths."""
    if isinstance(record, dict):
        return {key: steady(value) for key, value in record.items() if key not in VOLATILE}
    return [steady(item) for item in record] if isinstance(record, list) else record


if __name__ == "__main__":
    raise SystemExit(main())
