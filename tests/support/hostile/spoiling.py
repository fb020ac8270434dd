"""Folders as they come from elsewhere: bytes cut and flipped, tensors of other shapes and kinds, JSON of other types, links, pickles."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, 10**40, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "lora", "on", "q"),
    *("../../x", "/etc/passwd", "\u202e\x1b[2J", "\ud800", "a" * 5000, "(a", "(" * 3000, "a{99999999999}", "model.embed", "nan"),
    *([], [None], ["x"], ["x", "x"], [0, 0], [1, 0], [True], [[]], [1e9], {}, {"x": 1}, {"x": {}}, {"": None}, {"a": [1]}),
)  # fmt: skip
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sprung),)


@dataclass(frozen=True)
class Spoiling:
    """One thing done to one file, chosen by numbers: the same numbers do the same to the same folder."""

    kind: str
    file: int
    place: int
    amount: int
    value: Any

    def apply(self, folder: Path, outside: Path, files: Sequence[str] | None = None) -> None:
        """Do it in ``folder``; ``outside`` is where links lead."""
        there = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        there = [path for path in there if files is None or path.name in files]
        suffix = {"json": (".json", ".jsonl"), "tensor": (".safetensors",), "text": (".json", ".jsonl", ".yaml")}
        wanted = suffix.get(self.kind.partition("/")[0], ("",))
        fitting = [path for path in there if path.name.endswith(wanted)]
        if fitting:
            with contextlib.suppress(
                ValueError, OSError, RecursionError, SafetensorError
            ):  # it is spoilt too far for this already
                WAYS[self.kind](self, fitting[self.file % len(fitting)], outside)


def cut(how: Spoiling, path: Path, outside: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: how.place % (len(data) + 1)])


def flip(how: Spoiling, path: Path, outside: Path) -> None:
    data = bytearray(path.read_bytes())
    for number in range(1 + how.amount % 3):
        if data:
            # the first bytes of a safetensors file are its header
            reach = len(data) if how.amount % 2 else min(len(data), 600)
            data[(how.place + 31 * number) % reach] ^= 1 + how.amount % 255
    path.write_bytes(bytes(data))


def grow_header(how: Spoiling, path: Path, outside: Path) -> None:
    sizes = (0, 1, 2**20, 2**32, 2**63, 2**64 - 1, how.place)
    path.write_bytes(sizes[how.amount % len(sizes)].to_bytes(8, "little") + path.read_bytes()[8:])


def replace_file(how: Spoiling, path: Path, outside: Path) -> None:
    path.unlink()
    ways: list[Callable[[], Any]] = [
        lambda: None,
        path.mkdir,
        path.touch,
        lambda: path.symlink_to(outside / "precious"),
        lambda: path.symlink_to(outside / "nowhere"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/dev/zero"),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(b"\xff\xfe\x00garbage"),
        lambda: path.write_bytes(pickle.dumps(Trap(outside / "sprung"))),
        lambda: path.with_suffix(".bin").write_bytes(pickle.dumps(Trap(outside / "sprung"))),
        lambda: torch.save({"a": Trap(outside / "sprung")}, path),
        lambda: torch.save({"a": Trap(outside / "sprung")}, path.with_suffix(".bin")),
    ]
    ways[how.amount % len(ways)]()


def edit_json(how: Spoiling, path: Path, outside: Path) -> None:
    """One value of a JSON file, or of one line of a .jsonl file, is another one, is gone, is there twice."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = how.place % len(lines) if lines else 0
    value = json.loads(lines[at]) if lines else {}
    holders = all_holders(value)
    holder, name = holders[(how.place * 7 + how.file) % len(holders)] if holders else ({}, "")
    does = how.amount % 6
    text = None
    if does < 3 and holders:
        holder[name] = how.value
    elif does == 3 and holders:
        del holder[name]
    elif does == 4 and isinstance(holder, dict):
        holder[str(how.value)[:40]] = how.value
    elif isinstance(value, dict) and value:
        first = next(iter(value))
        text = "{" + json.dumps(first) + ": " + json.dumps(how.value) + ", " + json.dumps(value)[1:]
    else:
        text = json.dumps(how.value)
    lines[at : at + 1] = [json.dumps(value) if text is None else text]
    path.write_text("\n".join(lines) + "\n")


def all_holders(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside, the outermost first."""
    if isinstance(value, dict):
        own: list[tuple[Any, Any]] = [(value, name) for name in value]
    elif isinstance(value, list):
        own = [(value, index) for index in range(len(value))]
    else:
        return []
    return own + [deeper for holder, name in own for deeper in all_holders(holder[name])]


def whole_json(how: Spoiling, path: Path, outside: Path) -> None:
    texts = (
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        "NaN",
        '"\\ud800"',
        json.dumps(how.value),
    )
    path.write_text(texts[how.amount % len(texts)])


def edit_tensor(how: Spoiling, path: Path, outside: Path) -> None:
    """One tensor of a file has another shape, kind, value or name."""
    tensors = load_file(path)
    names = sorted(tensors)
    name = names[how.place % len(names)]
    old = tensors[name]
    ways: list[Callable[[], torch.Tensor | None]] = [
        lambda: None,
        lambda: old.T.contiguous() if old.ndim == 2 else old[None],
        lambda: old[:1].contiguous(),
        lambda: old.flatten()[0].clone(),
        lambda: old.flatten().clone(),
        lambda: torch.zeros(0),
        lambda: torch.cat([old, old]) if old.ndim else old[None],
        lambda: old.new_zeros(*old.shape, 1),
        lambda: old.to(DTYPES[how.file % len(DTYPES)]),
        lambda: torch.full_like(old, (float("nan"), float("inf"), 3e38, 1e-40)[how.file % 4]),
        lambda: torch.full(old.shape, 1e300, dtype=torch.float64),
    ]
    way = how.amount % (len(ways) + 2)
    if way < len(ways):
        made = ways[way]()
        tensors.pop(name) if made is None else tensors.update({name: made})
    elif way == len(ways):
        tensors[name + ".extra" if how.file % 2 else "extra"] = old.clone()
    else:
        tensors[str(how.value)[:80].encode("utf-8", "replace").decode() or "x"] = tensors.pop(name)
    save_file(tensors, path, {"format": "pt"})


def edit_text(how: Spoiling, path: Path, outside: Path) -> None:
    lines = path.read_text().splitlines()
    at = how.place % (len(lines) or 1)
    value = how.value if isinstance(how.value, str) else json.dumps(how.value)
    value = value.encode("utf-8", "replace").decode()
    does = how.amount % 4
    if does == 0:
        lines[at : at + 1] = []
    elif does == 1:
        lines[at:at] = lines[at : at + 1]
    elif does == 2:
        lines[at : at + 1] = [lines[at].partition(":")[0] + ": " + value] if lines else [value]
    else:
        lines[at:at] = [value]
    path.write_text("\n".join(lines) + "\n")


WAYS: dict[str, Callable[[Spoiling, Path, Path], None]] = {
    "any/cut": cut,
    "any/flip": flip,
    "any/replace": replace_file,
    "tensor/header": grow_header,
    "tensor/flip": flip,
    "tensor/edit": edit_tensor,
    "json/edit": edit_json,
    "json/whole": whole_json,
    "text/edit": edit_text,
}
OFTEN = [*WAYS, "json/edit", "json/edit", "json/edit", "tensor/edit", "tensor/edit"]

spoilings = st.builds(
    Spoiling, st.sampled_from(OFTEN), st.integers(0, 50), st.integers(0, 5000), st.integers(0, 1000), st.sampled_from(ODD_VALUES)
)  # fmt: skip


def listing(*folders: Path) -> dict[str, tuple[int, int]]:
    """Every entry below ``folders`` with its size and time: what must be the same where nothing was written."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            told = path.lstat()
            found[str(path)] = (0, 0) if path.is_dir() and not path.is_symlink() else (told.st_size, told.st_mtime_ns)
    return found


def fresh_copy(source: Path, place: Path) -> Path:
    """``source`` copied to ``place``, in the place of what was there."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    return place
