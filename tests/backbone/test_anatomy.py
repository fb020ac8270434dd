"""Selecting sites by role, regex and shortcut, and what is said where nothing matches."""

import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft.utils.other import get_pattern_key
from support.models import tiny_model
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, BartConfig, BartForSequenceClassification

from lorakit.backbone import guessing
from lorakit.backbone.anatomy import Anatomy, family_of
from lorakit.backbone.families import families
from lorakit.backbone.guessing import adaptable, find_layers, guess_role
from lorakit.errors import RecipeError


@pytest.fixture(scope="module")
def bert(tiny, load) -> Anatomy:
    return load(tiny("bert")).anatomy


def problem(anatomy, targets):
    with pytest.raises(RecipeError) as caught:
        anatomy.select(targets)
    return caught.value.problems


def test_roles_select_in_model_order_without_duplicates(bert):
    found = bert.select(["v", "q", "q", "query"])
    assert [site.label for site in found] == ["0.q", "0.v", "1.q", "1.v"]
    assert bert.select([]) == []
    assert bert.select(["all"]) == bert.sites


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "deberta"])
def test_q_and_v_select_a_fused_projection_once(family, tiny, load):
    found = load(tiny(family)).anatomy.select(["q", "v"])
    assert [site.label for site in found] == ["0.qkv", "1.qkv"]
    assert found == load(tiny(family)).anatomy.select(["qkv"])


@pytest.mark.parametrize(
    "target",
    [
        "query",
        "output.dense",
        r"layer\.1\..*dense",
        "self.(query|value)",
        "ery",
    ],
)
def test_regexes_match_as_in_peft(target, tiny, load):
    backbone = load(tiny("bert"))
    matched = [s.name for s in backbone.anatomy.sites if get_pattern_key([target], s.name) == target != s.name]
    if matched:
        assert [site.name for site in backbone.anatomy.select([target])] == matched
    else:
        assert problem(backbone.anatomy, [target])


def test_every_wrong_target_is_told_with_what_is_near(bert):
    first, second = problem(bert, ["vlaue", "q", "qeury"])
    assert first.key == second.key == "adapter.targets"
    assert "'vlaue' matches no module" in first.what
    assert "'value'" in first.hint
    assert "'query'" in second.hint
    assert "roles q k v o up down, all" in first.valid
    assert "attention.self.query" in first.valid


def test_a_role_the_family_lacks_and_the_head_and_a_broken_regex(bert):
    assert "matches no module" in problem(bert, ["gate"])[0].what
    (head,) = problem(bert, ["classifier"])
    assert "'classifier' is outside them" in head.what
    assert "not a role, nor a regex" in problem(bert, ["((query)"])[0].what
    assert "not a role, nor a regex" in problem(bert, ["(?i)query"])[0].what


def test_shortcut_sites(tmp_path, load):
    anatomy = load(tiny_model("bert", tmp_path, num_hidden_layers=3)).anatomy
    found = anatomy.shortcuts(["cut", "mid", "in", "res2", "res1", "res1"])
    assert [site.label for site in found if site.layer == 0] == ["0.res1", "0.res2", "0.in", "0.cut"]
    assert [site.label for site in found if site.layer == 1] == ["1.res1", "1.res2", "1.in", "1.cut", "1.mid"]
    assert [site.label for site in found if site.layer == 2] == ["2.res1", "2.res2", "2.in", "2.mid"]
    assert {(site.in_features, site.out_features, site.kind) for site in found} == {(32, 32, "shortcut")}
    assert found[0].name == "bert.encoder.layer.0.res1"
    assert anatomy.shortcuts([]) == []


def test_wrong_shortcuts_are_refused_by_name(bert, tiny, load, tmp_path):
    with pytest.raises(RecipeError, match="no shortcut called 'res3'") as caught:
        bert.shortcuts(["res1", "res3"])
    assert caught.value.problems[0].key == "adapter.shortcuts"
    assert "res1 res2 in cut mid" in caught.value.problems[0].valid
    single = load(tiny_model("bert", tmp_path, num_hidden_layers=1)).anatomy
    with pytest.raises(RecipeError, match="'cut' joins two layers"):
        single.shortcuts(["cut"])
    assert [site.label for site in single.shortcuts(["res1", "in"])] == ["0.res1", "0.in"]
    with pytest.raises(
        RecipeError, match=r"res1, mid cannot be attached to this gpt_neox model: .*use_parallel_residual"
    ):
        load(tiny("gpt_neox")).anatomy.shortcuts(["res1", "mid"])


def test_an_unknown_family_keeps_its_sites_and_refuses_shortcuts(tiny, load):
    anatomy = load(tiny("mpnet")).anatomy
    assert family_of("mpnet") is None
    assert [site.label for site in anatomy.select(["q", "v"])] == ["0.q", "0.v", "1.q", "1.v"]
    assert anatomy.residual_sums == []
    with pytest.raises(RecipeError, match="mpnet") as caught:
        anatomy.shortcuts(["res1"])
    assert all(name in str(caught.value) for name in families.names())


def test_deberta_with_a_convolution_refuses_shortcuts(tmp_path, load):
    anatomy = load(tiny_model("deberta_v2", tmp_path, conv_kernel_size=3, conv_act="gelu")).anatomy
    with pytest.raises(RecipeError, match="convolution"):
        anatomy.shortcuts(["in"])


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("attention.attention.query", "q"),
        ("self_attn.v_proj", "v"),
        ("attention.output.dense", "o"),
        ("output.dense", "down"),
        ("layer.1.DenseReluDense.wo", "down"),
        ("layer.0.SelfAttention.o", "o"),
        ("attn.Wqkv", "qkv"),
        ("mlp.gate_up_proj", "other"),
        ("pos_key_proj", "other"),
        ("dense", "other"),
    ],
)
def test_roles_are_guessed_only_from_telling_names(path, role):
    assert guess_role(path) == role


def test_one_layer_run_many_times_has_its_sites_once():
    config = AlbertConfig(
        vocab_size=20,
        embedding_size=8,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        num_hidden_layers=6,
    )
    anatomy = Anatomy(AlbertForSequenceClassification(config))
    assert {site.layer for site in anatomy.sites} == {0}
    assert [site.role for site in anatomy.sites if site.role != "other"] == ["q", "k", "v"]
    assert len(anatomy.sites) == 6


def test_the_layers_of_an_encoder_decoder_are_numbered_through():
    config = BartConfig(
        vocab_size=20,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    with torch.device("meta"):
        anatomy = Anatomy(BartForSequenceClassification(config))
    assert anatomy.layers[2][0] == "model.decoder.layers.0"
    assert len([site for site in anatomy.sites if site.layer == 4]) == 10  # q k v o twice, up, down


def test_a_model_without_layers_is_refused():
    model = SimpleNamespace(
        config=SimpleNamespace(model_type="flat", get_text_config=lambda: None),
        named_modules=nn.Linear(2, 2).named_modules,
    )
    with pytest.raises(RecipeError, match="no layers") as caught:
        Anatomy(model)
    assert caught.value.problems[0].key == "model.name"


def test_what_is_not_called_is_not_a_site():
    block = nn.TransformerEncoderLayer(8, 2, 16)
    assert not adaptable(block.self_attn.out_proj)
    assert adaptable(block.linear1)
    assert adaptable(transformers.pytorch_utils.Conv1D(4, 2))
    assert find_layers(nn.ModuleDict({"vision_tower": nn.ModuleList([nn.Linear(2, 2)])})) == []


class Router(nn.Linear):
    """A Linear that returns what it chose."""

    def forward(self, x):
        return super().forward(x).topk(1)


class Written(nn.Linear):
    """A Linear that is written out, as Falcon's."""

    def forward(self, x):
        return x @ self.weight.T + self.bias


class JambaMambaMixer(nn.Module):
    """Reads a weight without calling its module."""

    def __init__(self):
        super().__init__()
        self.dt_proj, self.in_proj = nn.Linear(2, 4), nn.Linear(4, 4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_linear_with_a_forward_of_its_own_is_tried(device):
    guessing.TRIED.clear()
    with torch.device(device):
        assert adaptable(Written(4, 3))
        assert not adaptable(Router(4, 3))
        layer = nn.ModuleDict(
            {"w": Written(4, 3), "r": Router(4, 3), "mamba": JambaMambaMixer(), "conv": nn.Conv1d(4, 4, 2)}
        )
    assert [path for path, _ in guessing.adaptable_modules(layer)] == ["w", "mamba.in_proj"]
    assert guessing.left_out([("0", layer), ("1", layer)]) == [
        "r (Router)",
        "mamba.dt_proj (Linear)",
        "conv.weight (4x4x2)",
    ]


def test_labels_in_names_are_paths(bert):
    assert all(re.fullmatch(r"bert\.encoder\.layer\.[01]\.[\w.]+", site.name) for site in bert.sites)
