"""What a head reads, against plain transformers; and the models that have not what it would read."""

import pytest
import torch
from datasets import Dataset
from support.every_family import tiny_classifier
from support.models import SMALL, tiny_tokenizer
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm
from transformers import AutoModel, BartConfig, BartForSequenceClassification

from lorakit.backbone.first_token import compute_first_token_only
from lorakit.backbone.head import output_names
from lorakit.backbone.readout import READOUTS, read_out
from lorakit.errors import RecipeError
from lorakit.tasks.batching import encode

TEXTS = ["a good film", "the plot was never dull , and the cast likes the old joke !", "bad"]
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2", "electra")
WHOLE = [name for name, readout in READOUTS.items() if not readout.apart]  # of pairs: test_pair_texts.py


def read_plainly(folder, batch, readout):
    """The features by plain transformers, a row at a time without any padding."""
    model = AutoModel.from_pretrained(folder).eval()
    found = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        alone = ids[mask == 1][None]
        with torch.no_grad():
            output = model(input_ids=alone, output_hidden_states=True)
        last, layers = output.last_hidden_state[0], [each[0] for each in output.hidden_states[1:]][-4:]
        found.append(
            {
                "cls": lambda last=last: last[0],
                "mean": lambda last=last: last.mean(0),
                "layers": lambda layers=layers: torch.cat([layer_norm(h, h.shape[-1:]).mean(0) for h in layers]),
            }[readout]()
        )
    return torch.stack(found)


@pytest.mark.parametrize(
    ("family", "readout"),
    [*((family, readout) for family in ENCODERS for readout in WHOLE), ("llama", "mean"), ("llama", "layers")],
)
def test_a_head_reads_what_its_name_says(family, readout, tiny, load):
    folder = tiny(family)
    backbone = load(folder, readout=readout)
    batch = backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    head = backbone.model.get_submodule(f"{readout}_head")
    expected = read_plainly(folder, batch, readout) @ head.weight.T + head.bias
    torch.testing.assert_close(backbone.model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert backbone.new_parts == [f"{readout}_head.weight", f"{readout}_head.bias"]
    assert output_names(backbone.model, backbone.new_parts) == backbone.new_parts
    assert head.in_features == (64 if readout == "layers" else 32)  # two layers, of a model that has no four


def test_four_layers_are_read_of_a_model_that_has_more(tiny, load):
    backbone = load(tiny("bert", num_hidden_layers=6), readout="layers")
    assert backbone.model.layers_head.in_features == 4 * 32


def test_a_head_on_the_first_token_lets_the_last_layer_skip_the_others(tiny, load):
    backbone = load(tiny("bert"), readout="cls")
    model = backbone.model.requires_grad_(True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = backbone.tokenizer(TEXTS, padding=True, return_tensors="pt")

    def outcome():
        model.zero_grad()
        logits = model(**batch).logits
        cross_entropy(logits, torch.tensor([0, 1, 1])).backward()
        return logits.detach(), model.bert.encoder.layer[0].attention.self.query.weight.grad.clone()

    whole = outcome()
    assert compute_first_token_only(model, backbone.anatomy) is not None
    for fewer, every in zip(outcome(), whole, strict=True):
        torch.testing.assert_close(fewer, every, rtol=1e-4, atol=1e-6)


def test_decoders_have_no_token_at_the_front_that_saw_the_text(tiny, load):
    with pytest.raises(RecipeError, match="the first token: its first token sees none of those that follow") as caught:
        load(tiny("llama"), readout="cls")
    problem = caught.value.problems[0]
    assert (problem.key, problem.hint) == ("model.readout", "model.readout=own")


@pytest.mark.parametrize("eos", [False, True])
def test_texts_of_a_pair_are_compared_of_encoders(tiny, load, eos):
    backbone = load(tiny("llama"))
    why = "its first token sees none of those" if eos else "its tokenizer puts no token before every text and another"
    with pytest.raises(RecipeError, match=why):
        read_out(backbone.model, READOUTS["pair"], tiny_tokenizer(decoder=True, eos=eos, pad="<unk>"), "some/llama")


def test_a_text_without_a_token_for_the_whole_is_not_read_by_its_first(tiny, load):
    backbone, tokenizer = load(tiny("bert")), tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(RecipeError, match="begin with no token that stands for the whole"):
        read_out(backbone.model, READOUTS["cls"], tokenizer, "some/model")


@pytest.mark.parametrize("readout", READOUTS)
def test_models_without_states_of_the_texts_tokens_are_refused(readout):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartForSequenceClassification(BartConfig(vocab_size=SMALL["vocab_size"], **sizes, **heads))
    with pytest.raises(RecipeError, match="cannot be read out by") as caught:
        read_out(model, READOUTS[readout], tiny_tokenizer(), "some/bart")
    assert caught.value.problems[0].key == "model.readout"
    assert hasattr(model, "classification_head")  # it is as it was


REFUSED = {
    # family -> what it cannot be read out by
    "xlnet": ["cls", "pair"],  # padded on the left: the first place of a batch is no token
    "perceiver": ["cls", "mean", "layers", "pair"],  # latent states, none for a token
    "funnel": ["cls", "mean", "layers", "pair"],  # pools
    "canine": ["cls", "mean", "layers", "pair"],  # its layers see letters by fours
    "fnet": ["pair"],  # takes padding for text: two lengths are in one batch
    "layoutlm": [],  # whose base model calls its pooler
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_read_out_is_the_texts_own_or_is_refused(family, tmp_path, load):
    folder, refused = tiny_classifier(family, tmp_path / family), []
    for name in READOUTS:
        try:
            backbone = load(folder, readout=name, head="new")
        except RecipeError as error:
            refused += [name] * ("cannot be read out" in str(error))
            continue
        second = {"text_pair": TEXTS[::-1]} if READOUTS[name].apart else {}
        dataset = Dataset.from_dict({"text": TEXTS, **second, "idx": [0, 1, 2]})
        encoded = encode(dataset, backbone.tokenizer, 32, padding=backbone.padding)
        together, alone = (
            torch.cat([backbone.model(**encoded.collate(rows)).logits for rows in batches])
            for batches in (encoded.batches(3), [[row] for rows in encoded.batches(3) for row in rows])
        )
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert refused == REFUSED[family]
