"""``lorakit report`` of a sequence: one page with its matrices of accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.artifacts.files import write_text
from lorakit.artifacts.records import read_record, reading
from lorakit.artifacts.run import Run
from lorakit.errors import RunError, command_line
from lorakit.reporting.figures import as_svg, save
from lorakit.reporting.page import Numbers, Page, Picture, render
from lorakit.reporting.summary import Passage
from lorakit.reporting.tables import counted
from lorakit.reporting.transfer_figure import accuracy_matrix
from lorakit.result import Result
from lorakit.workflow.report import PAGE
from lorakit.workflow.sequences.folder import open_sequence
from lorakit.workflow.sequences.score_sequence import Reading, SequenceScores

KNOWN, UNKNOWN = "the task known", "the task not known"


@dataclass(frozen=True)
class SequenceReport(Result):
    """A sequence's page.

    Attributes:
        run: its folder.
        page: the page, which needs nothing but itself.
        figures: its figures as files.
        scores: what they show.
        summary: the page in plain words.
    """

    run: Path
    page: Path
    figures: list[Path]
    scores: SequenceScores
    summary: list[Passage]


def report_sequence(path: str | Path) -> SequenceReport:
    """Write the page of a sequence whose tasks are all learnt, from what its training scored.

    Args:
        path: the folder of the sequence.

    Returns:
        The scores, and where the page and its figures are.

    Raises:
        UsageError: where there is no such sequence.
        RunError: where it is not finished, or its scores are damaged.

    Example:
        >>> lorakit.report_sequence("runs/topics-0").page                      # doctest: +SKIP
        PosixPath('runs/topics-0/report/report.html')
    """
    folder = open_sequence(path)
    scores, place = read_scores(folder.path, folder.scores), Run(folder.path).report
    figures, pictures = [], []
    for name, title, read in (("known", KNOWN, scores.known), ("unknown", UNKNOWN, scores.unknown)):
        figure = accuracy_matrix(scores.tasks, read.matrix)
        figures.append(save(figure, place / f"{name}.png"))
        alt = f"Tiles: a row after each task, a column for each task. At the end the mean is {read.average:.4f}."
        pictures.append(Picture(f"Accuracy with {title}", as_svg(figure, name), alt, caption(title)))
    words = passages(scores)
    page = Page(
        title=f"{folder.path.resolve().name}: {counted(len(scores.tasks), 'task')} in order",
        subtitle=f"{folder.sequence.tasks[0].recipe.model.name}, {settings_words(scores)}, seed {folder.sequence.seed}",
        facts=[
            ("average accuracy, task known", f"{scores.known.average:.4f}"),
            ("forgetting, task known", f"{scores.known.forgetting:.4f}"),
            ("average accuracy, task not known", f"{scores.unknown.average:.4f}"),
            ("forgetting, task not known", f"{scores.unknown.forgetting:.4f}"),
            ("parameters kept", f"{scores.parameters:,}"),
        ],
        passages=words,
        parts=[*pictures, table(scores)],
        fold=[("Recipe", folder.sequence.path.read_text(encoding="utf-8", errors="replace"))],
    )
    write_text(place / PAGE, render(page))
    return SequenceReport(folder.path, place / PAGE, figures, scores, words)


def read_scores(source: Path, path: Path) -> SequenceScores:
    """What the training scored. RunError where it has not, or the file is damaged."""
    if not path.is_file():
        raise RunError("is not scored yet", where=str(source), hint=command_line("train", source, "--resume"))
    what = "the scores of a sequence"
    record = read_record(path, what)
    with reading(path, what):
        readings = {name: Reading(**record[name]) for name in ("known", "unknown")}
        return SequenceScores(**record | readings, source=source)


def settings_words(scores: SequenceScores) -> str:
    """The method and its settings."""
    return ", ".join(f"{name} {value}" for name, value in scores.continual.items())


def caption(title: str) -> str:
    """How a figure is read."""
    if title == KNOWN:
        return (
            "A row is answered by the head of its task. Pale: before the task was learnt, by its head as it was before its training. "
            "Down a column is what later tasks did to one."
        )
    return (
        "A row is answered by the largest logit of all heads learnt so far, of color tasks by the head that the frozen features choose; "
        "labels of the same name are one."
    )


def passages(scores: SequenceScores) -> list[Passage]:
    """What the numbers say, and what one sequence cannot say."""
    words = []
    for title, read in ((KNOWN, scores.known), (UNKNOWN, scores.unknown)):
        losses = {
            name: float(read.matrix[-1][place] or 0) - float(read.matrix[place][place] or 0)
            for place, name in enumerate(scores.tasks[:-1])
        }
        worst = min(losses, key=losses.__getitem__)
        sentences = [
            f"After the last task the mean accuracy of all is {read.average:.4f}.",
            f"Backward transfer is {read.backward:+.4f}, forgetting {read.forgetting:.4f}.",
            f"Most was lost of {worst}: {losses[worst]:+.4f} since it was learnt."
            if losses[worst] < 0
            else "No task is worse than when it was learnt.",
        ]
        words.append(Passage(f"With {title}", sentences))
    if scores.forward is not None:
        words[0].sentences.append(
            f"Forward transfer is {scores.forward:+.4f}: it says little of heads that are drawn at random."
        )
    words[-1].sentences.append("One order and one seed: others come out otherwise.")
    return words


def table(scores: SequenceScores) -> Numbers:
    """Each task right after it was learnt and at the end."""
    rows = [
        [
            name,
            f"{rows:,}",
            *(f"{read.matrix[after][place]:.4f}" for read in (scores.known, scores.unknown) for after in (place, -1)),
        ]
        for place, (name, rows) in enumerate(zip(scores.tasks, scores.rows, strict=True))
    ]
    columns = ["task", "rows", "learnt (known)", "end (known)", "learnt (not known)", "end (not known)"]
    return Numbers("Tasks in numbers", columns, rows)
