"""Tiny random checkpoints of every family: two layers of width 32, and a tokenizer of whole words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils import logging

TEXT = (
    "a an the and or not no yes is was it this that film plot cast story scene joke good bad fine dull sharp slow warm cold "
    "long short old new great poor very too quite never always man woman dog cat house car sun rain red blue runs sleeps "
    "says likes hates eats sees one two three four five six . , ! ?"
)
WORDS = TEXT.split()
VOCABULARY = {word: number for number, word in enumerate(("<pad>", "<unk>", "<s>", "</s>", *WORDS))}
PIECES = dict.fromkeys((w[:i], w[i]) for word in WORDS for w in (word, f"Ġ{word}") for i in range(1, len(w)))
BYTES = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, PIECES)]

SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
ENCODER = SMALL | {"pad_token_id": 0, "hidden_dropout_prob": 0.1}
GATED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
DISTILBERT = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 0}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}

# family -> (transformers config class, its arguments, whether it is a decoder: no pad token, texts start with <s> alone)
FAMILIES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "bert": ("BertConfig", ENCODER, False),
    "roberta": ("RobertaConfig", ENCODER | {"type_vocab_size": 1, "max_position_embeddings": 66}, False),
    "deberta": ("DebertaConfig", ENCODER | DISENTANGLED, False),
    "deberta_v2": ("DebertaV2Config", ENCODER | DISENTANGLED | {"position_buckets": 16}, False),
    "distilbert": ("DistilBertConfig", SMALL | DISTILBERT | {"pad_token_id": 0}, False),
    "electra": ("ElectraConfig", ENCODER | {"embedding_size": 16}, False),
    "opt": ("OPTConfig", SMALL | OPT, True),
    "opt_postnorm": ("OPTConfig", SMALL | OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}, True),
    "gpt2": ("GPT2Config", SMALL | GPT2, True),
    "gpt_neox": ("GPTNeoXConfig", SMALL, True),
    "gpt_neox_serial": ("GPTNeoXConfig", SMALL | {"use_parallel_residual": False}, True),
    "llama": ("LlamaConfig", GATED, True),
    "mistral": ("MistralConfig", GATED, True),
    "qwen2": ("Qwen2Config", GATED | {"vocab_size": len(BYTES), "bos_token_id": 0, "eos_token_id": 0}, True),
    "gemma": ("GemmaConfig", GATED, True),
    "gemma2": ("Gemma2Config", GATED, True),
    "mpnet": ("MPNetConfig", ENCODER, False),  # no family is registered for it
}


def tiny_tokenizer(
    *, decoder: bool = False, segments: bool = False, eos: bool = False, pad: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: ``<s> ... </s>`` with a pad token, or for a decoder ``<s> ...`` with ``pad`` alone.

    segments: token_type_ids tell the two texts of a pair apart; eos: a decoder's texts end with ``</s>`` too.
    """
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder and not eos:
        single, pair = "<s> $A", "<s> $A $B"
    else:
        single, pair = "<s> $A </s>", "<s> $A </s> $B:1 </s>:1"
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad if decoder else "<pad>",
        model_max_length=64,
        model_input_names=["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    )


def byte_tokenizer() -> Qwen2Tokenizer:
    """Qwen2's tokenizer class, which transformers insists on for Qwen2, over the same words."""
    return Qwen2Tokenizer({piece: number for number, piece in enumerate(BYTES)}, list(PIECES), model_max_length=64)


def tiny_model(family: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Save a random headless checkpoint of ``family`` with a tokenizer into ``folder`` and return the folder.

    ``config`` overrides the tiny configuration. Weights and biases are large enough for every part to matter.
    """
    name, arguments, decoder = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModel.from_config(getattr(transformers, name)(**arguments | config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    save(model.to(dtype), folder)
    save(byte_tokenizer() if family == "qwen2" else tiny_tokenizer(decoder=decoder, segments=family == "bert"), folder)
    return folder


@dataclass
class TinyModels:
    """``models(family, **config)``: the folder of that tiny checkpoint, built in ``folder`` at the first call."""

    folder: Path
    built: dict[tuple[Any, ...], Path] = field(default_factory=dict)

    def __call__(self, family: str, **config: Any) -> Path:
        key = (family, *sorted(config.items()))
        if key not in self.built:
            self.built[key] = tiny_model(family, self.folder / f"{family}-{len(self.built)}", **config)
        return self.built[key]


def save(thing: Any, folder: Path) -> None:
    """``save_pretrained`` without its progress bar."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    thing.save_pretrained(folder)
    if shown:
        logging.enable_progress_bar()
