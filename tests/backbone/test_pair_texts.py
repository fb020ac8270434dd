"""Texts of a pair, encoded apart, against plain transformers on each text alone."""

import pytest
import torch
from support.models import tiny_tokenizer
from tokenizers import processors
from torch.nn.functional import layer_norm
from transformers import AutoModel, AutoModelForSequenceClassification, BartConfig

from lorakit.backbone.head import output_names
from lorakit.backbone.pair_texts import PairFrame, encoded_apart, rows_of_nothing, takes_mask
from lorakit.backbone.readout import READOUTS, read_out

FIRST = ["a good film", "the plot was never dull , and the cast likes the old joke !", "bad", ""]
SECOND = ["the joke is old", "bad", "a man and a woman says the film is not very good", "a cat"]
FAMILIES = ("bert", "roberta", "distilbert", "deberta_v2", "electra")


def separated(segments=False, separators=1):
    """A tokenizer with so many separators between the texts of a pair: RoBERTa's kind has two."""
    tokenizer = tiny_tokenizer(segments=segments)
    between = " ".join(["</s>"] * separators)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=f"<s> $A {between} $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


def compared_plainly(folder, tokenizer, first, second):
    """[u, v, |u - v|, u v], one text at a time."""
    model, found = AutoModel.from_pretrained(folder).eval(), []
    for texts in zip(first, second, strict=True):
        means = []
        for text in texts:
            with torch.no_grad():
                states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            means.append(layer_norm(states, states.shape[-1:]).mean(0))
        u, v = means
        found.append(torch.cat([u, v, (u - v).abs(), u * v]))
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_texts_are_encoded_as_if_they_were_alone(family, tiny):
    folder = tiny(family)
    tokenizer = separated(segments=family == "bert", separators=2 if family == "roberta" else 1)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read_out(model, READOUTS["pair"], tokenizer, family)
    batch = tokenizer(FIRST, SECOND, padding=True, return_tensors="pt")
    assert ("token_type_ids" in batch) == (family == "bert")
    expected = compared_plainly(folder, tokenizer, FIRST, SECOND) @ model.pair_head.weight.T + model.pair_head.bias
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert model.pair_head.in_features == 4 * 32
    names = ["pair_head.weight", "pair_head.bias"]
    assert output_names(model, names) == names


def test_neither_text_sees_the_other(tiny, load):
    backbone = load(tiny("bert"), readout="pair")
    seen = []
    backbone.model.pair_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for second in (SECOND, SECOND[::-1]):
        backbone.model(**backbone.tokenizer(FIRST, second, padding=True, return_tensors="pt"))
    (u, v, _, _), (again, other, _, _) = (features.chunk(4, dim=1) for features in seen)
    torch.testing.assert_close(again, u, rtol=1e-5, atol=1e-6)
    assert (other - v).abs().amax(1).min() > 0.1


@pytest.mark.parametrize("between", [1, 2])
def test_rows_are_taken_apart_at_the_first_separator(between):
    one, two = [7, 8], [9, 6, 5]
    pairs = [(one, two), ([], one), (two, []), ([], [])]
    joined = [[2, *a, *[3] * between, *b, 3] for a, b in pairs]
    joined.append([2, *two, 3])  # no pair at all: its second text is empty
    pairs.append((two, []))
    length = max(map(len, joined))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in joined])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in joined])
    ids, mask = PairFrame(2, 3, between).apart(ids, mask)
    assert ids.shape == mask.shape == (10, 5)  # two, with a token on each side
    rows = [row[real == 1].tolist() for row, real in zip(ids, mask, strict=True)]
    assert rows == [[2, *text, 3] for texts in zip(*pairs, strict=True) for text in texts]


def test_a_tokenizer_tells_what_stands_between_two_texts():
    assert PairFrame.of(tiny_tokenizer()) == PairFrame(2, 3, 1)
    assert PairFrame.of(separated(separators=2)) == PairFrame(2, 3, 2)
    assert PairFrame.of(tiny_tokenizer(decoder=True, pad="<unk>")) is None
    unknown = tiny_tokenizer()
    unknown.eos_token = None  # texts may hold the token that ends them, for all that lorakit knows
    assert PairFrame.of(unknown) is None


def test_the_mask_of_what_layers_see_is_the_base_models(tiny, load):
    own, pair = (load(tiny("bert"), readout=readout).model for readout in ("own", "pair"))
    assert takes_mask(own) is own
    assert takes_mask(pair) is pair.base_model
    assert encoded_apart(own) is None
    halves = encoded_apart(pair).halves(2, 8, torch.device("cpu"))
    _, mask = encoded_apart(pair).apart(halves, torch.ones_like(halves))
    assert mask.sum(1).tolist() == [4, 4, 5, 5]


def test_rows_to_measure_with_end_where_a_head_looks_for_the_end():
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    model = AutoModelForSequenceClassification.from_config(BartConfig(vocab_size=9, eos_token_id=2, **sizes, **heads))
    ids = rows_of_nothing(model, 2, 4, torch.device("cpu"))
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, model.config.num_labels)
