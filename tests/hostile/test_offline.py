"""Nothing reaches for the network: with every way to it closed, all commands work on a run that is offline."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from unittest import mock

import pytest
from support.runs import SEARCH

import lorakit
from lorakit.workflow import train as running


class ClosedError(Exception):
    """Somebody tried."""


@pytest.fixture
def closed(monkeypatch):
    """No connection can be made and no name looked up; what was tried, in order."""
    tried = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise ClosedError(arguments)

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return tried


def test_the_way_is_closed(closed):
    """The control: plain sockets, urllib and the hub's client are all stopped."""
    with pytest.raises(ClosedError), socket.socket() as plain:
        plain.connect(("127.0.0.1", 9))
    with pytest.raises(ClosedError):
        urllib.request.urlopen("http://127.0.0.1:9/")
    from huggingface_hub import HfApi, constants

    with mock.patch.object(constants, "HF_HUB_OFFLINE", False), pytest.raises(Exception):  # noqa: B017, PT011 - the client's own
        HfApi(endpoint="http://127.0.0.1:9").model_info("someone/model", timeout=1)
    assert len(closed) >= 3


def test_every_command_works_offline(closed, bench, tmp_path):
    from huggingface_hub import constants

    with mock.patch.object(constants, "HF_HUB_OFFLINE", False), mock.patch.object(running, "draw"):
        loaded = bench.load(*SEARCH, "training.epochs=1", "adapter.rank=2", "adapter.shortcuts=[]", name="offline")
        assert loaded.recipe.run.offline
        run = lorakit.train(loaded, run_dir=tmp_path / "run").run_dir
        lorakit.plan(loaded)
        lorakit.search(loaded, emit=tmp_path / "found.yaml")
        lorakit.evaluate(run, task="custom", offline=True)
        lorakit.predict(run, ["a good film"])
        lorakit.report(run)
        assert lorakit.merge(run, out=tmp_path / "merged").out.is_dir()
        peft = lorakit.export(run, out=tmp_path / "peft").out
        lorakit.combine([run, run], out=tmp_path / "both")
        lorakit.load(tmp_path / "merged").predict(["a good film"])
        settings = [
            f"task.train={bench.data()}/train.csv",
            "task.text=sentence",
            "task.label=label",
            f"model.name={bench.backbone()}",
        ]
        lorakit.import_adapter(peft, task="custom", out=tmp_path / "back", overrides=settings, offline=True)
        lorakit.compare([str(run)], train=False, folder=tmp_path / "compared")
    assert closed == []
    assert Path(tmp_path / "found.yaml").is_file()
