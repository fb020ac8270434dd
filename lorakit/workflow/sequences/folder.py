"""The folder of a sequence: its recipe, those of its tasks, and a run for each.

sequence.yaml            the tasks in their order, and the method
recipes/1-NAME.yaml      each task's recipe with every default spelt out
data.json                the digests of each task's rows
memory/                  of `replay`: the rows that are gone over again
tasks/1-NAME/            its run, an ordinary one
final/1-NAME/            of one adapter for all tasks: the run of each but the last as the last one left it
scores.json              the matrix, once all are learnt
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.files import remove_folder, rename, write_json, write_text
from lorakit.artifacts.provenance import DATA, describe
from lorakit.artifacts.records import read_record, reading
from lorakit.artifacts.run import FINAL, TASKS, Run, claim, new_run
from lorakit.errors import LorakitError, RunError, UsageError, command_line
from lorakit.recipe.keys import plain_values
from lorakit.recipe.sequence import APART, LoadedSequence, load_sequence
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.tasks.task import TaskData
from lorakit.workflow.same_data import changed, difference
from lorakit.workflow.unfinished import FREE_ON_RESUME

RECIPES, SCORES = "recipes", "scores.json"


@dataclass(frozen=True)
class SequenceFolder:
    """path: of the whole; sequence: as its own recipe has it."""

    path: Path
    sequence: LoadedSequence

    @property
    def scores(self) -> Path:
        """What it came to."""
        return self.path / SCORES

    @property
    def finished(self) -> bool:
        """Whether all tasks are learnt and scored."""
        return self.scores.is_file()

    @property
    def runs(self) -> list[Run]:
        """Those of the tasks, in order; they need not be there yet."""
        return [Run(self.path / TASKS / name) for name in numbered(self.sequence.names)]

    @property
    def final(self) -> list[Path]:
        """The runs that answer for each task once all are learnt, in order."""
        runs = [run.path for run in self.runs]
        if self.sequence.continual.method in APART:
            return runs
        return [*(self.path / FINAL / path.name for path in runs[:-1]), runs[-1]]


def numbered(names: Sequence[str]) -> list[str]:
    """``1-NAME`` and so on."""
    return [f"{number}-{name}" for number, name in enumerate(names, start=1)]


def open_sequence(path: str | Path) -> SequenceFolder:
    """The sequence in the folder ``path``. UsageError where there is none, RunError where not all of its tasks are learnt."""
    found = read_folder(Path(path))
    for run in found.runs:
        if not run.finished:
            hint = f"{command_line('train', path, '--resume')} goes on"
            raise RunError(f"the task {run.path.name} is not learnt yet", where=str(path), hint=hint)
    return found


def read_folder(path: Path) -> SequenceFolder:
    """The same of one that may be unfinished."""
    if not (path / SEQUENCE_FILE).is_file():
        what = f"is not the folder of a sequence: it has no {SEQUENCE_FILE}"
        raise UsageError(what, where=str(path), hint="a folder that lorakit train made of a recipe with a sequence")
    return SequenceFolder(path, load_sequence(path / SEQUENCE_FILE))


def begin(sequence: LoadedSequence, data: Sequence[TaskData], run_dir: Path | None) -> SequenceFolder:
    """A fresh folder, whole or not at all, with the recipes in it, and what the rows are; ``sequence`` is then theirs."""
    home = new_run(sequence.folder, sequence.name, sequence.seed) if run_dir is None else claim(run_dir)
    names = numbered(sequence.names)
    files = [f"{RECIPES}/{name}.yaml" for name in names]
    draft = home.path.with_name(f".{home.path.name}.{os.getpid()}.partial")  # its own: who is first has the name
    remove_folder(draft)
    for file, loaded in zip(files, sequence.tasks, strict=True):
        write_text(draft / file, loaded.to_yaml())
    told = {
        name: {split: describe(rows, split) for split in rows.splits} for name, rows in zip(names, data, strict=True)
    }
    write_json(draft / DATA, told)
    write_text(draft / SEQUENCE_FILE, sequence.to_yaml(files))
    try:
        rename(draft, home.path)
    except OSError:
        remove_folder(draft)
        raise UsageError(
            "another process has just begun here", where=str(home.path), hint="another --run-dir"
        ) from None
    return read_folder(home.path)


def check_same_rows(folder: SequenceFolder, data: Sequence[TaskData]) -> None:
    """DataError where the rows of a task, learnt already or not, are not those that the sequence was begun with."""
    what = "the rows of a sequence"
    told = read_record(folder.path / DATA, what)
    for run, loaded, rows in zip(folder.runs, folder.sequence.tasks, data, strict=True):
        with loaded.locating_errors(), reading(folder.path / DATA, what):
            for split in rows.splits:
                before, now = told[run.path.name][split], describe(rows, split)
                if before["digest"] != now["digest"]:
                    file, how = now.get("file", rows.origin), difference(split, before, now)
                    raise changed(f"the sequence {folder.path} was begun", how, file, f"task.{split}")


def begun(sequence: LoadedSequence, run_dir: Path | None) -> SequenceFolder:
    """The folder to go on in: the named one, the one that the recipe is of, or the newest unfinished one of its name and seed.

    UsageError where there is none, or it is of another recipe.
    """
    folder = run_dir or home_of(sequence) or newest_unfinished(sequence)
    found = read_folder(folder)
    if found.finished:
        raise UsageError(
            "this sequence was learnt to its end already", where=str(folder), hint="lorakit eval, or a new one"
        )
    if changed := changed_keys(sequence, found.sequence):
        what = f"the recipe has changed since this sequence began: {', '.join(changed)}"
        hint = f"{command_line('train', folder, '--resume')} goes on with its own recipe"
        raise UsageError(what, where=str(folder), hint=hint)
    return found


def home_of(sequence: LoadedSequence) -> Path | None:
    """The folder that the recipe is of; None where it is a person's own file, by whatever name."""
    home = sequence.path.parent
    own = all((home / RECIPES / f"{name}.yaml").is_file() for name in numbered(sequence.names))
    return home if own and sequence.path.name == SEQUENCE_FILE else None


def newest_unfinished(sequence: LoadedSequence) -> Path:
    """The newest folder of the sequence's name and seed that is not learnt to its end."""
    if found := unfinished(sequence):
        return found[-1]
    what = f"there is no unfinished sequence {sequence.name} with seed {sequence.seed} to resume"
    hint = "name its folder with --run-dir, or leave --resume out to start anew"
    raise UsageError(what, where=str(sequence.folder), hint=hint)


def unfinished(sequence: LoadedSequence) -> list[Path]:
    """The folders of the sequence's name and seed that are not learnt to their end, the newest last."""
    named = re.compile(rf"{re.escape(sequence.name)}-{sequence.seed}(-\d+)?")
    found = [path.parent for path in sequence.folder.glob(f"*/{SEQUENCE_FILE}") if named.fullmatch(path.parent.name)]
    left = [path for path in found if not (path / SCORES).is_file()]
    return sorted(left, key=lambda path: (path / SEQUENCE_FILE).stat().st_mtime_ns)


def told_unfinished(sequence: LoadedSequence) -> str:
    """How far the newest stopped folder of the same recipe is, and the line that goes on with it; empty without one."""
    for path in reversed(unfinished(sequence)):
        try:
            found = read_folder(path)
        except LorakitError:  # of another version, or damaged: nothing to go on with
            continue
        if not changed_keys(sequence, found.sequence):
            done, total = sum(run.finished for run in found.runs), len(found.runs)
            line = command_line("train", path, "--resume")
            return f"{path} was stopped, and {done} of its {total} tasks are learnt: {line} goes on with it"
    return ""


def changed_keys(given: LoadedSequence, own: LoadedSequence) -> list[str]:
    """What of the recipe is not as the folder has it; keys that change no number may change."""
    if given.names != own.names:
        return ["sequence"]
    if given.continual != own.continual:
        return ["continual"]
    changed: dict[str, None] = {}
    for ours, theirs in zip(given.tasks, own.tasks, strict=True):
        values, before = plain_values(ours.recipe), plain_values(theirs.recipe)
        changed |= {key: None for key in {**before, **values} if values.get(key) != before.get(key)}
    return [key for key in changed if key not in FREE_ON_RESUME]
