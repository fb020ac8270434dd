"""``lorakit report``: a run as one page with figures and a summary in plain words."""

from __future__ import annotations

from lorakit.cli.options import AsJson, NewestRun, Quiet, before_imports, given_or_newest


def report(run: NewestRun = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write a run's page: curves, which sites were on, scores, changes, budget, and what it means in plain words."""
    before_imports(quiet=quiet)
    from lorakit.cli.output import listening, say, write, write_json

    with listening(quiet=quiet):
        import lorakit

        result = lorakit.report(given_or_newest(run))
    if as_json:
        write_json(result.to_dict())
        return
    for passage in result.summary:
        write(passage.title, *(f"  {sentence}" for sentence in passage.sentences), "")
    write(f"page  {result.page}")
    number = len(result.figures)
    lie = "1 figure lies" if number == 1 else f"{number} figures lie"
    say(f"the page needs nothing but itself; {lie} beside it as PNG", quiet=quiet)
