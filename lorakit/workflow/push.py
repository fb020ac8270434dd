"""``lorakit push``: a run on the Hugging Face hub, with a card, and without its data and the places of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

from lorakit.artifacts.adapter_file import OURS
from lorakit.artifacts.files import read_json, write_json, write_text
from lorakit.artifacts.shareable import (
    LINES,
    check_nothing_private,
    copy_figures,
    files_of,
    places_of,
    write_shareable,
)
from lorakit.errors import RunError, UsageError
from lorakit.result import Result
from lorakit.workflow.card import CARD, FIGURES, card_of, form_of, public_name
from lorakit.workflow.card_usage import Place
from lorakit.workflow.export import write_peft
from lorakit.workflow.merge import merge
from lorakit.workflow.records import read_run
from lorakit.workflow.restore import restore_run

KNOWN_BY = ("recipe.yaml", OURS)
"""Files of which a repository that lorakit pushed to has one."""
PUSHED = ("*.json", "*.safetensors", "*.model", "*.jinja", "recipe.yaml", *LINES, "vocab.txt", "merges.txt")
PUSHED_FOLDERS = ("adapter", "best", "base", "report")
"""Of such a repository: what goes where the new push does not have it, so that no loader takes an older form for the newer."""


@dataclass(frozen=True)
class PushResult(Result):
    """What went, or would go.

    Attributes:
        repo: OWNER/NAME.
        url: of the commit; empty after a dry run.
        private: whether only its owner and who they let in can read it.
        files: each file with its bytes.
        bytes: of all of them.
        dry_run: whether nothing was sent.
        peft: why PEFT cannot load it; empty where it can, and where it is merged.
        transformers: the same of transformers.
        base: what it calls the base model.
    """

    repo: str
    url: str
    private: bool
    files: dict[str, int]
    bytes: int
    dry_run: bool
    peft: str
    transformers: str
    base: str


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    merged: bool = False,
    base: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> PushResult:
    """Send a run to the Hugging Face hub: the weights that it uses, what it came to, its figures, and a card.

    What arrives is a run that ``lorakit.load`` reads, with the adapter in front as PEFT has it where PEFT can. No rows and no digests
    of rows go; files and folders of this machine are told by their last names; each file is searched for what may not go before
    anything is sent.

    Args:
        run: the run's folder.
        repo: OWNER/NAME on the hub, which is made where it is not there.
        private: make a repository that only its owner can read. One that is there and public is refused then.
        merged: send a merged checkpoint instead, which transformers loads by itself where it can.
        base: what others call the base model, where the run names a folder of this machine.
        dry_run: send nothing and ask nobody; what would go is in the result.
        force: send it to a repository with files that lorakit did not push.

    Returns:
        What went.

    Raises:
        UsageError: where there is no run, for a name that the hub cannot have, without a token or with one that may not write there.
        RunError: for a run that is not trained yet or damaged, where the hub cannot be reached, or where something private would go.

    Example:
        >>> lorakit.push("runs/demo-0", "someone/films", dry_run=True).files    # doctest: +SKIP
    """
    check_name(repo)
    token = None if dry_run else token_of()
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "files"
        told = write_all(Path(run), target, repo, merged=merged, base=base)
        files = files_of(target)
        url = ""
        if token is not None:
            with told_errors(repo):
                url, private = send(target, repo, token, private=private, force=force)
    return PushResult(repo, url, private, files, sum(files.values()), dry_run, **told)


def check_name(repo: str) -> None:
    """UsageError for what cannot be a repository's name."""
    try:
        huggingface_hub.utils.validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"'{repo}' cannot be a repository: {error}", valid="OWNER/NAME") from None
    if repo.count("/") != 1:
        raise UsageError(f"'{repo}' does not say whose it is", valid="OWNER/NAME")


def token_of() -> str:
    """The person's token. UsageError without one, and where the network is off."""
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "the network is off (HF_HUB_OFFLINE), so nothing can be sent", hint="--dry-run shows what would go"
        )
    token = huggingface_hub.get_token()
    if token is None:
        raise UsageError("there is no token of the hub here", hint="hf auth login, or HF_TOKEN in the environment")
    return token


def write_all(run: Path, target: Path, repo: str, *, merged: bool, base: str | None) -> dict[str, Any]:
    """Write what goes into the folder ``target``, look through it, and tell who can load it."""
    restored = restore_run(run, None, with_data=False)
    recorded, form = read_run(restored.run), form_of(restored)
    name = public_name(restored.parts.recipe.model, base)
    figures = [figure for figure in FIGURES if (restored.run.report / figure).is_file()]
    place = Place(repo, "run", on_hub=True, peft=None if form.peft is None else "", figures=figures)
    if merged:
        place = Place(repo, "merged", on_hub=True, figures=figures)
    text = card_of(restored, recorded, form, place, name)
    if merged:
        merge(run, out=target)
        record = read_json(target / OURS)
        write_json(target / OURS, record | {"run": restored.run.path.name})
    else:
        target.mkdir()
        if form.peft is not None:
            public = replace(form.peft, config=form.peft.config | {"base_model_name_or_path": name})
            write_peft(restored, public, target, Path(repo))
        write_shareable(restored.run, restored.loaded, restored.weights, name, target)
    copy_figures(restored.run, figures, target)
    write_text(target / CARD, text)
    check_nothing_private(target, restored.run, [*places_of(restored.run, restored.loaded), os.path.abspath(run)])
    return {"peft": "" if merged else form.why_not_peft, "transformers": form.why_not_plain, "base": name}


def send(target: Path, repo: str, token: str, *, private: bool, force: bool) -> tuple[str, bool]:
    """Make the repository where it is not there and send all files; the address of the commit, and whether it is private."""
    api = huggingface_hub.HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    closed = bool(api.model_info(repo).private)
    if private and not closed:
        raise UsageError(
            "there is such a repository, and everybody can read it",
            where=repo,
            hint="another name, or without --private",
        )
    there = set(api.list_repo_files(repo)) - {".gitattributes", CARD}
    ours = not there.isdisjoint(KNOWN_BY)
    if there and not ours and not force:
        what = f"the repository has files that lorakit did not push, such as {min(there)}"
        raise UsageError(what, where=repo, hint="another name, or --force to put these beside them")
    sent: Any = api.upload_folder(
        repo_id=repo,
        folder_path=target,
        commit_message="Pushed by lorakit",
        delete_patterns=sorted(filter(is_pushed, there)) if ours else None,
    )
    return str(sent.commit_url), closed


def is_pushed(path: str) -> bool:
    """Whether a repository's file is one that a push may have put there."""
    folder, _, name = path.rpartition("/")
    return folder in PUSHED_FOLDERS or (not folder and any(fnmatch(name, pattern) for pattern in PUSHED))


@contextmanager
def told_errors(repo: str) -> Iterator[None]:
    """What the hub answers, and what the network does, as one message."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = f": {error.server_message}" if error.server_message else ""
        if status == 401:
            raise UsageError(f"the hub does not know this token{said}", where=repo, hint="hf auth login") from error
        if status in (403, 404):
            hint = "a token that may write, and a name under which you may"
            raise UsageError(f"this token may not write there{said}", where=repo, hint=hint) from error
        raise RunError(f"the hub answered {status}{said}", where=repo, hint="try again later") from error
    except (HTTPError, OSError) as error:
        raise RunError(
            f"the hub cannot be reached: {error}", where=repo, hint="--dry-run shows what would go"
        ) from error
    except ValueError as error:
        raise RunError(f"the hub does not take this card: {error}", where=repo) from error
