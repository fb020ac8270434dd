"""The tables of the package READMEs, written from the registries: nobody who adds a method has to write a row.

    python scripts/readme_tables.py             # writes every README whose tables have changed
    python scripts/readme_tables.py --check     # writes nothing; exit code 1 where a table is not what would be written

A table stands between ``<!-- table: KIND -->`` and ``<!-- table end -->``. Its rows are those of `lorakit list KIND`. A method's
parameters and when to use it come from its card, the header of its file.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # its own package, and not another copy that is installed

from lorakit.adapters.delta import deltas
from lorakit.adapters.init import inits
from lorakit.adapters.method import methods
from lorakit.cli.app import main as lorakit
from lorakit.searching.allocator import allocators
from lorakit.workflow.describe import header

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table: (?P<kind>\w+) -->\n)(?P<table>.*?)(?=<!-- table end -->)", re.DOTALL)
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \|.*$", re.MULTILINE)
USE = "When to use it: "


@dataclass(frozen=True)
class Differences:
    """Names of rows that are not what the registry says, and of entries that have no row yet."""

    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def listed(kind: str) -> list[dict[str, Any]]:
    """The rows of ``lorakit list KIND --json``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = lorakit(["list", kind, "--json"])
    if code:
        raise SystemExit(code)
    rows: list[dict[str, Any]] = json.loads(printed.getvalue())[kind]
    return rows


def grid(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [heads, ("---",) * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def coded(name: str) -> str:
    """A name as code."""
    return f"`{name}`"


def method_table() -> str:
    """Methods by what makes them differ from LoRA, each with its formula, its parameters and when to use it."""
    groups: dict[str, list[tuple[str, ...]]] = {title: [] for title in GROUPS}
    for row in listed("methods"):
        if row["key"] == "adapter.method":
            text = header(methods, row["name"])
            cells = (coded(row["name"]), row["what"], sentence_on_parameters(text), when_to_use(text))
            groups[next(title for title, belongs in GROUPS.items() if belongs(row))].append(cells)
    rows = [line for title, members in groups.items() if members for line in [(f"*{title}*", "", "", ""), *members]]
    return grid(("`adapter.method`", "what it is", "parameters", "when to use it"), rows)


def looks_at_nothing(row: Mapping[str, Any]) -> bool:
    """Whether a method's start looks neither at the weights nor at data."""
    return bool(inits.get(row["init"]).needs == "nothing")


GROUPS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "LoRA, and one setting of it changed": lambda row: (
        row["delta"] == "low_rank" and not row["updates"] and looks_at_nothing(row)
    ),
    "LoRA that starts from the weights or from data": lambda row: row["delta"] == "low_rank" and not row["updates"],
    "Something goes on while it trains (see the training room)": lambda row: bool(row["updates"]),
    "Not on a projection's weight: biases, norms, virtual tokens, everything": lambda row: bool(row["block"]),
    "Mixtures of experts, weighed or chosen anew for each token or row; cannot be merged": lambda row: (
        "router" in deltas.get(row["delta"]).roles.values()
    ),
    "Cannot be merged": lambda row: bool(deltas.get(row["delta"]).unmergeable),
    "Other forms of the update": lambda row: True,
}
"""Title -> whether a method belongs there; the first that says yes has it."""


def sentence_on_parameters(text: str) -> str:
    """The clause of a card that says how many parameters there are; empty where none does."""
    told = text.partition("\n")[2].partition(USE)[0]
    prose = " ".join(line for line in told.splitlines() if not line.startswith("  "))
    clauses = (clause.strip() for clause in re.split(r"[.;:](?:\s|$)", prose))
    return next((clause for clause in clauses if re.search(r"\bparameters\b", clause, re.IGNORECASE)), "")


def when_to_use(text: str) -> str:
    """What a card says of that, to its end."""
    return " ".join(text.partition(USE)[2].split()).removesuffix(".")


def init_table() -> str:
    """Starts, with what each looks at."""
    looks = {
        "nothing": "nothing",
        "weight": "the weight",
        "covariance": "inputs",
        "gradient": "gradients",
        "fisher": "gradients",
    }
    rows = [(coded(name), init.summary, looks[init.needs], init.source) for name, init in inits.items()]
    return grid(("`adapter.init`", "how A and B start", "looks at", "source"), rows)


def allocator_table() -> str:
    """What `lorakit list methods` says of the allocators, and their cards of when to use them."""
    rows = [row for row in listed("methods") if row["key"] == "search.method"]
    heads = ("`search.method`", "what it gives or takes, and by what", "when to use it", "source")
    cells = [(row["what"], when_to_use(allocator_card(row["name"])), row["source"]) for row in rows]
    return grid(heads, [(coded(row["name"]), *told) for row, told in zip(rows, cells, strict=True)])


def allocator_card(name: str) -> str:
    """The header of an allocator's file, which need not have its name."""
    return inspect.getdoc(inspect.getmodule(allocators.get(name))) or ""


def plain_table(kind: str, key: str, columns: Mapping[str, str], name: str = "name") -> str:
    """A kind as `lorakit list` has it: its column -> what it is called here; name: the column that comes first."""
    rows = [(coded(row[name]), *(str(row[column]) for column in columns)) for row in listed(kind)]
    return grid((coded(key), *columns.values()), rows)


def family_table() -> str:
    """What the contract over all architectures found out; those of which there is nothing to say share a row."""
    rows = json.loads(EVERY_FAMILY.read_text(encoding="utf-8"))["families"]
    told = {name: row for name, row in rows.items() if row["notes"] or {row["merges"], row["exports"]} != {"yes"}}
    cells = [(coded(name), *(row[key] for key in FAMILY_COLUMNS)) for name, row in told.items()]
    silent = [name for name in rows if name not in told]
    cells.append((f"{len(silent)} others", "yes", "yes", "yes", ", ".join(silent)))
    counts = {key: sum(row[key] == "yes" for row in rows.values()) for key in FAMILY_COLUMNS[:-1]}
    heads = tuple(f"{key}: {number} of {len(rows)}" for key, number in counts.items())
    return grid(("model type", *heads, "notes"), cells)


FAMILY_COLUMNS = ("trains", "merges", "exports", "notes")
EVERY_FAMILY = ROOT / "scripts" / "every_family.json"
TABLES: dict[str, Callable[[], str]] = {
    "methods": method_table,
    "inits": init_table,
    "allocators": allocator_table,
    "proxies": lambda: plain_table(
        "proxies", "search.proxy", {"score": "a site's score", "where B = 0": "where B is zero", "options": "options"}
    ),
    "updates": lambda: plain_table(
        "updates", "adapter.updates", {"what": "what it does", "options": "options", "source": "source"}
    ),
    "optimizers": lambda: plain_table(
        "optimizers", "training.optimizer", {"what": "what it is", "options": "options", "source": "source"}
    ),
    "combinations": lambda: plain_table(
        "combinations", "--method", {"what": "what it gives", "looks at": "looks at", "weights": "weights"}
    ),
    "tasks": lambda: plain_table(
        "tasks", "task.name", {"what": "what is asked", "texts": "texts", "labels": "labels", "metrics": "metrics"}
    ),
    "every_family": family_table,
    "models": lambda: plain_table("models", "family", {"model types": "model types", "roles": "roles"}, name="family"),
}


def readmes() -> list[Path]:
    """The READMEs that may have tables."""
    return sorted((ROOT / "lorakit").rglob("README.md"))


def written(text: str) -> str:
    """A README's text with its tables made anew."""
    return MARKED.sub(lambda found: found[1] + TABLES[found["kind"]](), text)


def differences(text: str) -> Differences:
    """What of a README's tables is not as it would be written."""
    found = Differences()
    for marked in MARKED.finditer(text):
        kind, new = marked["kind"], TABLES[marked["kind"]]()
        there, made = rows_of(marked["table"]), rows_of(new)
        found.wrong.extend(f"{kind}: {name}" for name, row in there.items() if made.get(name) != row)
        found.missing.extend(f"{kind}: {name}" for name in made if name not in there)
    return found


def rows_of(table: str) -> dict[str, str]:
    """Name -> row of a table's entries; its head is none."""
    return {row["name"]: row[0] for row in ROW.finditer(table.partition("| --- ")[2])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table would change")
    check = parser.parse_args().check
    stale = 0
    for path in readmes():
        text = path.read_text(encoding="utf-8")
        new = written(text)
        if new == text:
            continue
        stale += 1
        found = differences(text)
        told = ", ".join([*found.wrong, *(f"{name} (no row)" for name in found.missing)]) or "headings"
        print(f"{path.relative_to(ROOT)}: {'is not up to date' if check else 'written'}: {told}")
        if not check:
            path.write_text(new, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
