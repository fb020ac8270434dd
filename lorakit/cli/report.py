"""``lorakit report``: a run as one page with figures and a summary in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.options import AsJson, NewestRun, Quiet, given_or_newest
from lorakit.cli.output import say, write, write_summary
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.reporting.tables import counted

if TYPE_CHECKING:
    from lorakit.workflow.report import ReportResult
    from lorakit.workflow.sequences.report_sequence import SequenceReport


def report(run: NewestRun = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write a run's page: curves, which sites were on, scores, changes, budget, and what it means in plain words."""
    with envelope(quiet=quiet):
        if run is not None and (run / SEQUENCE_FILE).is_file():
            answer(lorakit.report_sequence(run), tell, as_json=as_json)
            return
        answer(lorakit.report(given_or_newest(run)), tell, as_json=as_json)


def tell(result: ReportResult | SequenceReport) -> None:
    """Write the summary, and where the page is."""
    write_summary(result.summary)
    write(f"page  {result.page}")
    say(f"the page is one self-contained file; {counted(len(result.figures), 'figure')} beside it as PNG")
