"""A checkpoint's configuration and tokenizer: read, and the configuration fitted to the task."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS

from lorakit.backbone.adapted_folder import is_closed, read_closed
from lorakit.errors import RecipeError
from lorakit.recipe.schema import ModelSection
from lorakit.tasks.token_ids import limit_threads

ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
NO_TOKENIZER = "save the tokenizer into the same folder as the model"


def read_config(folder: Path, section: ModelSection, options: dict[str, Any]) -> Any:
    """The checkpoint's configuration, of an architecture that transformers can classify sequences with.

    Raises RecipeError (key ``model.name``, or ``model.trust_remote_code`` for a model that brings its own code).
    """
    try:
        config = read_closed(folder) if is_closed(folder) else AutoConfig.from_pretrained(folder, **options)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise own_code_error(section) from error
        unwritable = section.trust_remote_code and isinstance(error, OSError) and error.errno is not None
        raise RecipeError(
            f"the configuration of '{section.name}' in {folder} cannot be used: {first_line(error)}",
            key="model.name",
            hint="HF_HOME=a folder that may be written: the model's code is copied there" if unwritable else "",
        ) from error
    config.name_or_path = section.name
    if type(config) in CLASSIFIERS or "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {}):
        return config
    raise RecipeError(
        f"'{section.name}' is a {config.model_type} model, which transformers cannot classify sequences with",
        key="model.name",
        hint="an encoder such as bert, roberta or deberta-v2, or a decoder such as llama or gpt2",
    )


def own_code_error(section: ModelSection) -> RecipeError:
    """What is said of a model, or a tokenizer, that cannot be loaded without running code that comes with it."""
    return RecipeError(
        f"'{section.name}' brings its own code, and none of it was run",
        key="model.trust_remote_code",
        hint="model.trust_remote_code=true, where you trust that code",
    )


def read_tokenizer(folder: Path, section: ModelSection, config: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer. Raises RecipeError when its files are missing: transformers would make up an empty one."""
    limit_threads()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **options)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise own_code_error(section) from error
        what = f"the tokenizer of '{section.name}' in {folder} cannot be loaded: {first_line(error)}"
        raise RecipeError(what, key="model.name", hint=NO_TOKENIZER) from error
    needed = set(tokenizer.vocab_files_names.values())
    if needed and not any((folder / file).is_file() for file in needed):
        what = f"the folder {folder} has no tokenizer files ({' or '.join(sorted(needed))})"
        raise RecipeError(what, key="model.name", hint=NO_TOKENIZER)
    return tokenizer


def fit_inputs(tokenizer: Any, model: Any) -> None:
    """Let a tokenizer make token types for models alone that have an embedding for the second text's too."""
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    if not takes or getattr(model.config, "type_vocab_size", 2) == 1:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]


def check_embeddings(tokenizer: Any, rows: int, name: str) -> None:
    """Refuse a tokenizer that makes tokens of text which the model's table of ``rows`` embeddings does not have.

    Special ones that were never embedded (a pad token that was added, an image's placeholder) do no harm: text has none.
    Raises RecipeError (key ``model.name``).
    """
    added = tokenizer.added_tokens_decoder
    lacking = [str(added[number]) for number in sorted(added) if number >= rows and not added[number].special]
    if lacking or tokenizer.vocab_size > rows:
        shown = (
            f": {', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''} {'have' if lacking[1:] else 'has'} none"
        )
        raise RecipeError(
            f"the tokenizer of '{name}' has {len(tokenizer):,} tokens, the model {rows:,} embeddings{shown if lacking else ''}",
            key="model.name",
            valid="a tokenizer and a model that belong together",
            hint="model.resize_token_embeddings(len(tokenizer)) in transformers, and save both; or leave out the tokens that were added",
        )


def configure(config: Any, labels: tuple[str, ...], regression: bool, multi_label: bool = False) -> None:
    """Fit the configuration to the task, in place.

    The cache of past keys is for generation and is switched off. BigBird's sparse attention gives way to full attention at the first
    short batch, and stays there: what it says of a long text would depend on the texts before it, so it is full from the start.
    """
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"
    if regression:
        config.num_labels = 1
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type(regression=regression, multi_label=multi_label)
    config.use_cache = False


def problem_type(*, regression: bool, multi_label: bool) -> str:
    """What transformers calls such a task: it decides what a pipeline makes of the logits."""
    if regression:
        return "regression"
    return "multi_label_classification" if multi_label else "single_label_classification"


def attention_for(config: Any, wanted: str) -> str:
    """``wanted``, or ``eager`` where transformers does not have that attention for this architecture."""
    flag = ATTENTION_FLAGS.get(wanted)
    if flag and type(config) in CLASSIFIERS and not getattr(CLASSIFIERS[type(config)], flag):
        return "eager"
    return wanted


def first_line(error: Exception) -> str:
    """The error's first line, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
