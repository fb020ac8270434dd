"""The READMEs as tests see them: their marked blocks, and the commands, links and names in their text.

<!-- run -->              the block runs, in its order, in its README's own folder, on little data
<!-- run: slow -->        the same, in the slow test alone
<!-- not run: REASON -->  a block of commands that no test runs
<!-- file: NAME -->       the block is written to that file
<!-- says: LINE -->       the block is what that command, which is asked wrongly, prints
<!-- method -->           the example of a method, which tests/adapters/test_readme_method.py runs
<!-- given: LINE -->      a command that runs without being shown; what the blocks behind it start from
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from support.models import save
from transformers import AutoConfig, AutoModel

from lorakit.backbone.model_folder import BUNDLED, WEIGHTS, BundledModel, bundled_folder
from lorakit.cli.app import app, main
from lorakit.recipe.keys import recipe_keys, section_keys
from lorakit.workflow import train as training

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "scripts" / "README.md", *sorted((ROOT / "lorakit").rglob("README.md"))]
BLOCK = re.compile(
    r"^(?:<!-- given: (?P<given>[^\n]*) -->$|(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$)",
    re.DOTALL | re.MULTILINE,
)
LITTLE = (
    "task.max_train_rows=24",
    "task.max_eval_rows=16",
    "task.max_length=16",
    "training.batch_size=4",
    "training.epochs=1",
    "search.batches=1",
    "search.every=0.34",
)
SMALL_EVOLUTION = ("search.options={population: 4, generations: 2, parents: 2}",)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Block:
    """A fenced block with the comment above it; ``mark`` is what comes before the colon."""

    mark: str
    detail: str
    language: str
    text: str


def blocks(readme: Path) -> list[Block]:
    """Every block of a README, in order."""
    found = []
    for block in BLOCK.finditer(readme.read_text(encoding="utf-8")):
        if block["given"] is not None:
            found.append(Block("run", "", "sh", block["given"]))
            continue
        mark, _, detail = (block["mark"] or "").partition(": ")
        found.append(Block(mark, detail, block["language"], block["text"]))
    return found


def play(readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, slow: bool) -> int:
    """Run a README's blocks in the working folder; how many commands were run. slow: those that are marked so too.

    A training draws no figures; a report does.
    """
    monkeypatch.setattr(training, "draw", lambda *arguments: None)
    ran = 0
    for block in blocks(readme):
        if block.mark == "file":
            Path(block.detail).write_text(block.text, encoding="utf-8")
        elif block.mark == "says":
            capsys.readouterr()
            assert main(shlex.split(block.detail)[1:]) == 2
            assert capsys.readouterr().err == block.text
        elif block.mark != "run" or (block.detail == "slow" and not slow):
            continue
        elif block.language == "python":
            exec(compile(block.text, str(readme), "exec"), {})
        else:
            for line in block.text.splitlines():
                code = run_line(line, monkeypatch)
                assert code == 0, f"{line}\n{capsys.readouterr().err}"
                ran += 1
    return ran


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run ``lorakit ...`` or ``echo TEXT | lorakit ...`` in this process; what reads a recipe does so on little data."""
    words = shlex.split(line, comments=True)
    if words[0] == "echo":
        monkeypatch.setattr("sys.stdin", io.StringIO(words[1] + "\n"))
        words = words[words.index("|") + 1 :]
    program, command, *rest = words
    assert program == "lorakit"
    if command in ("train", "plan", "search", "sweep") or (command == "compare" and not Path(rest[0]).is_dir()):
        rest += LITTLE
    if "glora" in rest:
        rest += SMALL_EVOLUTION
    return main([command, *rest])


def narrow_encoder(name: str, folder: Path) -> BundledModel:
    """A bundled encoder a quarter as wide, untrained, with the same layers, tokenizer and files: a training takes half of the time."""
    real = bundled_folder(name)
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    config = AutoConfig.from_pretrained(real, hidden_size=96, intermediate_size=384)
    save(AutoModel.from_config(config), folder)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return dataclasses.replace(BUNDLED[name], folder=str(folder), sha256=digest)


def write_reviews(path: Path) -> None:
    """The file of one's own that the READMEs speak of."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "verdict"])
        rows.writerows(
            [f"{word} film number {n}", verdict]
            for n in range(20)
            for word, verdict in (("good", "yes"), ("bad", "no"))
        )


def spoken_commands(readme: Path) -> Iterator[str]:
    """Every ``lorakit ...`` in a README: the lines of its blocks, and what stands as code in its sentences."""
    for block in blocks(readme):
        if block.language == "sh":
            yield from (line for line in block.text.splitlines() if "lorakit " in line)
    yield from re.findall(r"`(lorakit [^`]+)`", prose(readme))


def faults_of_command(line: str) -> list[str]:
    """What a command line says that the program does not know: a command, an option, a recipe key."""
    words = shlex.split(line, comments=True)
    if "lorakit" not in words:
        return []
    name, *rest = words[words.index("lorakit") + 1 :]
    if name.startswith("-"):
        return []
    if name not in COMMANDS:
        return [f"no command '{name}': {line}"]
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    faults = [f"no option '{word}': {line}" for word in rest if re.match(r"--?[a-z]", word) and word not in known]
    keys = [word.partition("=")[0] for word in rest if re.match(r"[a-z]+\.\w+(\.\w+)?=", word)]
    return faults + [f"no key '{key}': {line}" for key in keys if not is_key(key)]


def is_key(name: str) -> bool:
    """Whether a recipe has the key, or an entry of a mapping has it."""
    return ".".join(name.split(".")[:2]) in recipe_keys()


def faults_of_text(readme: Path) -> list[str]:
    """Recipe keys that are none, and links and Python files that lead nowhere."""
    text = prose(readme)
    sections = "|".join(section_keys())
    faults = [
        f"no key '{key}'" for key in re.findall(rf"`((?:{sections})\.(?!(?:py|json)`)\w+)", text) if not is_key(key)
    ]
    for name in re.findall(r"`([\w./]+\.py)`", text):
        if not any((folder / name).is_file() for folder in (readme.parent, ROOT, ROOT / "lorakit")):
            faults.append(f"no file {name}")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        place = readme.parent / path if path else readme
        if not place.exists():
            faults.append(f"no file {target}")
        elif anchor and anchor not in anchors(place):
            faults.append(f"no heading {target}")
    return faults


def anchors(readme: Path) -> set[str]:
    """What links can lead to, as GitHub makes it of headings."""
    heads = re.findall(r"^#+ (.*)$", prose(readme), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def prose(readme: Path) -> str:
    """A README's text without its blocks."""
    return BLOCK.sub("", readme.read_text(encoding="utf-8"))
