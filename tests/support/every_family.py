"""A tiny random checkpoint of every architecture that transformers can classify sequences with: its default configuration, shrunk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from support.models import VOCABULARY, save, tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

EVERY_FAMILY = tuple(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)

# What an attribute is called -> its tiny value; the first that fits decides.
SHRUNK: tuple[tuple[str, int], ...] = (
    (r"vocab_size", len(VOCABULARY)),
    (r"num_key_value_heads|num_kv_heads", 2),
    (r"num_\w*heads|n_heads?|\w*attention_heads", 4),
    (r"num_\w*layers|n_layers?|\w+_layers|depth", 2),
    (r"\w*head_dim|d_kv|d_head|attention_head_size", 8),
    (r"\w*intermediate_size|ffn_dim|\w+_ffn_dim|d_ff|dff|n_inner|hidden_dim|d_inner|ffn_hidden_size", 48),
    (
        r"\w*hidden_size|d_model|n_embd|emb_dim|dim|embedding_size|\w*embed_dim|word_embed_proj_dim|d_embed|d_latents",
        32,
    ),
    (r"entity_emb_size|intra_bottleneck_size", 32),
    (r"max_position_embeddings|n_positions|max_seq_len|max_position|max_source_positions", 66),
    (r"num_local_experts|num_experts|n_routed_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|moe_topk", 2),
    (r"q_lora_rank|kv_lora_rank", 16),
    (r"(shape|pronunciation|entity)_vocab_size|num_hash_buckets|max_xpath_\w+", 256),
)
ONE_KEY_A_HEAD = {"num_key_value_heads": 4}
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": ONE_KEY_A_HEAD | {"n_group": 2, "topk_group": 1},
    "axk2": ONE_KEY_A_HEAD,
    "canine": {"local_transformer_stride": 8, "max_position_embeddings": 256},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "cohere_compass_text": {
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        },
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "deepseek_v2": ONE_KEY_A_HEAD | {"num_experts_per_tok": 2},
    "deepseek_v3": ONE_KEY_A_HEAD | {"n_group": 2, "topk_group": 1},
    "esmc": ONE_KEY_A_HEAD,
    "longformer": {"attention_window": [8, 8]},
    "markuplm": {"max_depth": 4, "tag_pad_id": 216, "subs_pad_id": 200},
    "funnel": {"block_sizes": [1, 1]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32},
    "lilt": {"hidden_size": 48},
    "minicpm3": ONE_KEY_A_HEAD,
    "mistral4": ONE_KEY_A_HEAD | {"qk_rope_head_dim": 4},
    "mt5": {"decoder_start_token_id": 0},
    "qwen3_5": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
    },
    "t5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "mamba_headdim": 8,
        "chunk_size": 16,
        "n_mamba_heads": 8,
    },
}
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "num_labels": 2}


def tiny_config(model_type: str, **more: Any) -> PretrainedConfig:
    """The configuration of a tiny model; ``more`` overrides."""
    kind = CONFIG_MAPPING[model_type]
    overrides = OVERRIDES.get(model_type, {}) | more
    config = kind(**shrunk(kind(), overrides) | overrides | SPECIAL)
    config.get_text_config().pad_token_id = config.pad_token_id
    return config


def shrunk(config: PretrainedConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """Attribute -> tiny value of a configuration and of those in it, ``overrides`` wherever there is such an attribute."""
    made: dict[str, Any] = {}
    for name in config.to_dict():
        value = getattr(config, name, None)
        if isinstance(value, PretrainedConfig):
            made[name] = shrunk(value, overrides) | {"model_type": value.model_type}
        elif name in overrides:
            made[name] = overrides[name]
        elif value is None or type(value) is int:
            tiny = next((tiny for pattern, tiny in SHRUNK if re.fullmatch(pattern, name)), None)
            if tiny is not None:
                made[name] = tiny
    return made


def tiny_classifier(model_type: str, folder: Path, **more: Any) -> Path:
    """Save such a model with two labels, and a tokenizer, into ``folder``, and return the folder. Every part of it matters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(tiny_config(model_type, **more))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    save(model, folder)
    tokenizer = tiny_tokenizer(segments=True)
    tokenizer.model_max_length = 10**30  # as transformers has it where nobody said
    save(tokenizer, folder)
    return folder
