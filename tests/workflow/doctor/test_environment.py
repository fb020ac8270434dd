"""What ``lorakit doctor`` says of the machine."""

from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from lorakit.errors import RunError
from lorakit.workflow.doctor import environment
from lorakit.workflow.doctor.environment import FAILED, OK, SKIPPED, WARNING, Check, Finding, check


def test_here_nothing_fails():
    assert [row.check for row in environment.check_environment() if row.verdict == FAILED] == []


def test_whatever_a_look_raises_is_a_failure():
    def refuse() -> Finding:
        raise RunError("is broken", where="a/file", hint="mend it")

    def stumble() -> Finding:
        raise ZeroDivisionError("by zero")

    assert check("x", refuse) == Check("x", FAILED, "a/file: is broken", "mend it")
    assert check("x", stumble) == Check("x", FAILED, "ZeroDivisionError: by zero", "")
    assert check("x", lambda: Finding("good")) == Check("x", OK, "good", "")


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch):
    wanted = ["torch>=99", "no-such-package>=1", "safetensors>=0.5", "neither-this; extra == 'test'"]
    monkeypatch.setattr(environment, "requires", lambda name: wanted)
    found = environment.packages()
    assert found.detail == f"torch is {version('torch')}, and lorakit needs >=99; no-such-package is not installed"
    assert (found.verdict, found.advice) == (FAILED, "pip install 'torch>=99' 'no-such-package>=1'")
    monkeypatch.setattr(environment, "requires", lambda name: wanted[2:])
    assert environment.packages() == Finding(
        "1 required packages are installed, each in the range that lorakit asks for"
    )


@pytest.mark.parametrize("look", ["python", "packages"])
def test_a_source_tree_that_is_not_installed_is_warned_of(monkeypatch, look):
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "requires", absent)
    monkeypatch.setattr(environment, "metadata", absent)
    found = getattr(environment, look)()
    assert (found.verdict, "pip install ." in found.advice) == (WARNING, True)


def test_another_python_fails(monkeypatch):
    monkeypatch.setattr(environment, "metadata", lambda name: {"Requires-Python": "<3"})
    assert environment.python().verdict == FAILED


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5000)
    found = environment.device()
    assert (found.verdict, found.advice.split("=")[0]) == (WARNING, "set OMP_NUM_THREADS")


def test_autocast_that_does_not_work(monkeypatch):
    monkeypatch.setattr(environment, "CLOSE", 0.0)  # no product in bfloat16 is exact
    found = environment.bfloat16()
    assert (found.verdict, found.advice) == (WARNING, "train with training.precision=fp32")


@pytest.mark.parametrize(("free", "verdict"), [(2**20, FAILED), (2**30, WARNING), (2**40, OK)])
def test_room_on_the_disk(monkeypatch, free, verdict):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage(free))
    assert environment.disk().verdict == verdict


def test_a_cache_in_a_file_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(environment.constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert environment.hub_cache().verdict == WARNING
    monkeypatch.setattr(environment.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    assert environment.hub_cache().verdict == OK


@pytest.mark.parametrize(("offline", "word"), [(True, "offline: HF_HUB_OFFLINE is set"), (False, "not tried now")])
def test_the_network_is_told_and_not_tried(monkeypatch, offline, word):
    monkeypatch.setattr(environment.constants, "HF_HUB_OFFLINE", offline)
    assert word in environment.hub().detail


def test_glue_in_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(tmp_path / "none"))
    assert environment.glue().verdict == FAILED
    monkeypatch.setenv("LORAKIT_GLUE_DIR", str(tmp_path))
    assert environment.glue().verdict == OK
    monkeypatch.delenv("LORAKIT_GLUE_DIR")
    assert environment.glue().detail.startswith("from the hub")


@pytest.mark.parametrize("look", ["bundled_model", "bundled_sentences"])
def test_without_the_bundled_packages(monkeypatch, look):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    assert environment.bundled_missing()
    found = getattr(environment, look)()
    assert (found.verdict, found.advice) == (SKIPPED, "pip install 'lorakit[bundled]'")
