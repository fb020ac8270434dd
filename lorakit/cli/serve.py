"""``lorakit serve``: finished runs over one backbone by HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import lorakit
from lorakit.cli.command import answer, envelope
from lorakit.cli.completion import complete_run
from lorakit.cli.options import AsJson, Quiet, Weights
from lorakit.cli.output import say

if TYPE_CHECKING:
    from lorakit.workflow.serve import Served


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN ...]",
            help="Folders of finished runs on one backbone, or NAME=RUN; a folder alone is called by its own name.",
            autocompletion=complete_run,
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", help="The address to listen at; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes one that is free.")] = 8000,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Texts computed at once, of whatever requests and adapters.")
    ] = 32,
    wait: Annotated[
        float, typer.Option("--wait", metavar="MS", min=0.0, help="How long a text waits for others, in milliseconds.")
    ] = 5.0,
    max_texts: Annotated[int, typer.Option("--max-texts", min=1, help="Texts a request may have.")] = 256,
    max_characters: Annotated[
        int, typer.Option("--max-characters", min=1, help="Characters a text may have.")
    ] = 20_000,
    max_body: Annotated[int, typer.Option("--max-body", min=1, help="Bytes a request may have.")] = 1 << 20,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Texts that may wait; who comes then is told to come later.")
    ] = 4096,
    linger: Annotated[
        float,
        typer.Option("--linger", metavar="SECONDS", min=0.0, help="How long new requests are answered after SIGTERM."),
    ] = 0.5,
    weights: Weights = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer POST /predict {"adapter": NAME, "texts": [...]} until SIGTERM or Ctrl-C; GET /health and GET /metrics too."""
    with envelope(quiet=quiet):
        result = lorakit.serve(
            *runs,
            host=host,
            port=port,
            weights=weights,
            batch_size=batch_size,
            wait=wait,
            max_texts=max_texts,
            max_characters=max_characters,
            max_body=max_body,
            max_waiting=max_waiting,
            linger=linger,
            on_ready=lambda address: say(f"{address}: POST /predict, GET /health, GET /metrics; Ctrl-C ends it"),
        )
        answer(result, tell, as_json=as_json)


def tell(result: Served) -> None:
    """Say how much was answered."""
    say(f"{result.requests:,} requests with {result.texts:,} texts in {result.seconds:,.0f} s")
