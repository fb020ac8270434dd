"""What ``lorakit push`` and ``lorakit card`` pass on and print."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import lorakit

PUSHED = {
    "repo": "someone/films",
    "url": "",
    "private": True,
    "files": {"README.md": 4000, "adapter_model.safetensors": 1_234_567},
    "bytes": 1_238_567,
    "dry_run": True,
    "peft": "",
    "transformers": "",
    "base": "roberta-base",
}
CARD = {"out": Path("runs/a/README.md"), "scored": False, "peft": "they are shortcuts", "transformers": ""}


@pytest.fixture
def asked(monkeypatch):
    calls = []
    for name, told in (("push", PUSHED), ("card", CARD)):

        def answer(*args, told=told, **kwargs):
            calls.append((args, kwargs))
            return SimpleNamespace(**told, to_dict=lambda: {key: str(value) for key, value in told.items()})

        monkeypatch.setattr(lorakit, name, answer, raising=False)
    return calls


def test_a_dry_run_prints_files_and_sizes(cli, here, asked):
    ran = cli("push", "runs/a", "someone/films", "--private", "--merged", "--base", "roberta-base", "--dry-run")
    assert ran.code == 0
    options = {"private": True, "merged": True, "base": "roberta-base", "dry_run": True, "force": False}
    assert asked == [((Path("runs/a"), "someone/films"), options)]
    assert "1,234,567" in ran.out
    assert "would go to  someone/films, a private repository" in ran.out
    assert "2 files, 1,238,567 bytes" in ran.out
    assert "nothing was sent" in ran.err


def test_a_card_says_who_cannot_load_the_run(cli, here, asked):
    ran = cli("card", "runs/a", "--out", "card.md", "--base", "roberta-base", "--force")
    assert asked == [((Path("runs/a"),), {"out": Path("card.md"), "base": "roberta-base", "force": True})]
    assert "none: the run has no scores" in ran.out
    assert "cannot load it: they are shortcuts" in ran.out
    assert json.loads(cli("card", "runs/a", "--json").out)["out"] == "runs/a/README.md"
