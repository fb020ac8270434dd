"""The pad token of decoders, whose heads read the last token that is not padding."""

import pytest
import torch
from support.models import tiny_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from lorakit.backbone.padding import appended_token, prepare_padding
from lorakit.errors import RecipeError


@pytest.mark.parametrize(
    ("tokenizer", "chosen"),
    [
        ({"decoder": False}, "<pad>"),  # its own
        ({"decoder": True}, "</s>"),  # none: eos, which no text ends with
        ({"decoder": True, "pad": "</s>"}, "</s>"),  # its own, harmless
        ({"decoder": True, "eos": True, "pad": "</s>"}, "<s>"),  # its own ends every text
        ({"decoder": True, "eos": True}, "<s>"),
        ({"decoder": True, "eos": True, "pad": "<unk>"}, "<unk>"),
    ],
)
def test_the_choice(tokenizer, chosen):
    tokenizer, config = tiny_tokenizer(**tokenizer), LlamaConfig()
    prepare_padding(tokenizer, config, 80)
    assert tokenizer.pad_token == chosen
    assert config.pad_token_id == tokenizer.convert_tokens_to_ids(chosen)
    assert tokenizer.padding_side == "right"


def test_a_spare_token_is_taken_before_eos_and_a_token_without_embedding_is_not():
    tokenizer = tiny_tokenizer(decoder=True)
    tokenizer.add_tokens(["<|reserved_0|>", "<|right_pad|>"], special_tokens=True)
    rows = len(tokenizer)
    config = LlamaConfig()
    prepare_padding(tokenizer, config, rows)
    assert tokenizer.pad_token == "<|right_pad|>"
    prepare_padding(tokenizer, config, rows - 2)
    assert tokenizer.pad_token == "</s>"
    with pytest.raises(RecipeError, match="serve as padding"):
        prepare_padding(tokenizer, config, 0)


def test_what_is_appended():
    assert appended_token(tiny_tokenizer()) == 3
    assert appended_token(tiny_tokenizer(decoder=True)) is None
    assert appended_token(tiny_tokenizer(decoder=True, eos=True)) == 3


def test_the_head_reads_an_appended_eos():
    """With pad == eos the head would read the token before it; with the pad chosen here it reads the eos."""
    tokenizer = tiny_tokenizer(decoder=True, eos=True, pad="</s>")
    config = LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_labels=2
    )
    prepare_padding(tokenizer, config, 80)
    model = LlamaForSequenceClassification(config).eval()
    batch = tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1].tolist()[1:3] == [tokenizer.convert_tokens_to_ids("bad"), 3]
    with torch.no_grad():
        hidden = model.model(**batch).last_hidden_state
        expected = model.score(torch.stack([hidden[0, 4], hidden[1, 2]]))  # the positions of </s>
        torch.testing.assert_close(model(**batch).logits, expected)
