"""The recipe: one dataclass per section, every key with its type, its default, what it means and what it may be.

One file although it is long: it is where every key is looked up.
"""

# ruff: noqa: RUF009 - key() is dataclasses.field with a documentation

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from lorakit.recipe.vocabulary import names_of

MISSING = "???"  # OmegaConf's mark for a key that the recipe must give
AUTO = "auto"  # what is to be found: a learning rate, what a head reads
ADAMW = "adamw"  # the optimiser where none is named
CUSTOM = "custom"  # the task whose data are the person's own files
SHORTCUTS = ("res1", "res2", "in", "cut", "mid")
IN_FULL = ("norms", "embeddings")


@dataclass(frozen=True)
class Rule:
    """What is known of a key beyond its type. Bounds hold for the value, or for each item of a list or mapping.

    doc: what the key means; choices: the accepted words, or where to look them up; words: those that may stand in place of a number;
    mapping: the type of the values where a mapping
    from names to them may stand in place of a word, within the bounds; low and high: bounds that are themselves
    accepted; above and below: bounds that are not; pattern: a regex and how to say it in words; also: names that other tools
    use for the same thing, for did-you-mean.
    """

    doc: str
    choices: Sequence[str] | Callable[[], Sequence[str]] = ()
    words: tuple[str, ...] = ()
    mapping: type | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    pattern: tuple[str, str] | None = None
    also: tuple[str, ...] = ()


def key(default: Any, doc: str, **rule: Any) -> Any:
    """A dataclass field with its Rule. Lists and mappings are copied for each instance."""
    metadata = {"rule": Rule(doc, **rule)}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def tracker_names() -> list[str]:
    """The experiment trackers that Accelerate knows."""
    from accelerate.utils import LoggerType

    return [str(tracker.value) for tracker in LoggerType]


@dataclass
class ModelSection:
    """The backbone."""

    name: str = key(
        MISSING,
        "a hub name, a local folder, or bundled:minilm",
        also=("path", "model_name_or_path", "backbone", "base"),
    )
    revision: Optional[str] = key(None, "the hub revision to pin")
    dtype: str = key(
        "float32",
        "the dtype the frozen weights are loaded in",
        choices=("float32", "bfloat16", "float16"),
        also=("torch_dtype",),
    )
    quantization: str = key(
        "none",
        "how the frozen projections are kept: as they are loaded, rounded to 8 (int8) or 4 bits (nf4) a number by bitsandbytes, which "
        "the extra lorakit[quantized] installs, or to 4 bits in groups with a zero point (int4), or to 2, 3, 4 or 8 bits, as every matrix "
        "needs (mixed)",
        choices=("none", "int4", "int8", "mixed", "nf4"),
        also=("load_in_4bit", "load_in_8bit", "quantize", "quantization_config", "bnb_4bit_quant_type"),
    )
    quantization_group: int = key(
        32,
        "int4: so many inputs of a row have a scale and a zero point in common, an even number; these take 64 bits, 2 a number in groups "
        "of 32",
        low=2,
        also=("group_size", "q_group_size"),
    )
    quantization_bits: float = key(
        2.75,
        "mixed: bits a number that all projections take at most, scales and zero points counted; which of them get more is solved for "
        "the least error",
        above=0,
    )
    double_quant: bool = key(
        False, "nf4: the scales are quantised too, which saves 0.4 bits a number", also=("bnb_4bit_use_double_quant",)
    )
    compute_dtype: Optional[str] = key(
        None,
        "what products with quantised weights are computed in; by default in what their inputs come in",
        choices=("float32", "bfloat16", "float16"),
        also=("bnb_4bit_compute_dtype",),
    )
    attention: str = key(
        "sdpa",
        "the attention implementation",
        choices=("sdpa", "eager", "flash_attention_2"),
        also=("attn_implementation",),
    )
    rope_scaling: Union[float, str, None] = key(
        None,
        "rotary positions are divided by this (linear position interpolation), for rows longer than the model was pretrained on; auto: "
        "task.max_length over its own longest row, rounded up",
        words=(AUTO,),
        low=1,
        also=("rope_factor", "position_interpolation"),
    )
    head: Optional[str] = key(
        None,
        "a checkpoint's trained head: keep it in its own order, or make it new; by default it is kept where its label names are the "
        "task's, its outputs in the task's order",
        choices=("keep", "new"),
    )
    head_start: str = key(
        "random",
        "what a new head starts as: drawn at random, or fitted: logistic regression on the frozen model's features",
        choices=("random", "fitted"),
        also=("head_init",),
    )
    readout: str = key(
        "own",
        "what the head reads: what the family's own classifier does, the first token (cls), the mean of all tokens, that mean in the "
        "last four layers, the means of both texts of a pair, encoded apart and compared, or what logistic regression on training rows "
        "finds best (auto); own alone merges to a plain checkpoint",
        choices=("own", "cls", "mean", "layers", "pair", "auto"),
        also=("pooler", "pooling_mode", "classifier_pooling"),
    )
    trust_remote_code: bool = key(False, "run code that comes with a hub model")


@dataclass
class TaskSection:
    """The data: a GLUE task, the bundled sentences, or your own files."""

    name: str = key(
        MISSING,
        "a GLUE task, rotten_tomatoes, or custom",
        choices=lambda: [*names_of("tasks")(), CUSTOM],
        also=("dataset", "task_name", "dataset_name"),
    )
    data: str = key("auto", "hub, a folder, or auto: the folder $LORAKIT_GLUE_DIR where it is set, else the hub")
    max_length: int = key(128, "tokens kept per example", low=4, also=("max_seq_length", "max_token_len"))
    long: str = key(
        "truncate",
        "longer texts: truncate at the end; head_tail keeps their beginning and end; windows reads all, in pieces",
        choices=("truncate", "head_tail", "windows"),
        also=("truncation",),
    )
    window_pooling: str = key("mean", "with long: windows, what becomes of their logits", choices=("mean", "max"))
    max_train_rows: Optional[int] = key(
        None, "a seeded subset of the training rows", low=1, also=("max_train_samples",)
    )
    max_eval_rows: Optional[int] = key(
        None, "a fixed subset of each validation split", low=1, also=("max_eval_samples",)
    )
    holdout: Optional[float] = key(
        None,
        "the share of the training rows, the same for every run.seed, that is scored in place of the validation rows, which take no part: "
        "to choose by, and are `lorakit eval --split replaced_validation` afterwards; of own data task.split_seed draws it",
        above=0,
        below=1,
    )
    train: Optional[str] = key(
        None,
        "custom: a csv, tsv, json, jsonl or parquet file, packed or not, a folder of them, a saved data set, or hub:OWNER/NAME",
        also=("train_file",),
    )
    validation: Optional[str] = key(
        None,
        "custom: the same; without it validation_fraction of train is held out",
        also=("validation_file", "dev", "eval"),
    )
    test: Optional[str] = key(None, "custom: rows to predict, labels optional; a txt file too", also=("test_file",))
    text: Optional[str] = key(
        None, "custom: the text column, with dots what is inside of it", also=("sentence", "text_column", "sentence1")
    )
    text_pair: Optional[str] = key(None, "custom: the second text column, for sentence pairs", also=("sentence2",))
    label: Optional[str] = key(None, "custom: the label column", also=("label_column",))
    labels: list[str] = key([], "custom: label names in order; found in the data where empty", also=("label_names",))
    regression: bool = key(False, "custom: the label is a number", also=("is_regression",))
    ordered: bool = key(
        False,
        "custom: the labels are grades, in the order of task.labels or of their numbers: scores that respect it are added",
        also=("ordinal",),
    )
    multi_label: bool = key(
        False,
        "custom: a row has any number of labels, none too: a list, or a text with a separator between them",
        also=("multilabel", "is_multilabel"),
    )
    label_columns: list[str] = key(
        [], "custom, multi_label: a column of 0 and 1 for each label, in place of task.label", also=("label_cols",)
    )
    label_separator: Optional[str] = key(
        None, "custom, multi_label: what is between labels in a text; of ; | and , the one that is there by default"
    )
    metric: Optional[str] = key(
        None, "the metric that counts; the task's own by default", also=("metrics", "metric_for_best_model")
    )
    validation_fraction: float = key(
        0.1, "custom: the share of train held out where validation is not given", above=0, below=1
    )
    folds: Optional[int] = key(
        None, "custom: the rows are in so many folds, of which one is held out: see `lorakit train --folds`", low=2
    )
    fold: Optional[int] = key(None, "custom: the fold that is held out, from 1", low=1)
    split_seed: Optional[int] = key(
        0,
        "custom: draws the rows held out of train; null: run.seed does, and classes do not count, as in older runs",
        low=0,
    )


@dataclass
class AdapterSection:
    """What is attached, where, and how large. Unset axes take the method's value."""

    method: str = key(
        "lora",
        "a preset over the axes: see `lorakit list methods`",
        choices=names_of("methods"),
        also=("peft_type", "type"),
    )
    targets: Optional[list[str]] = key(
        None,
        "roles q k v o up gate down, all, or module regexes; the method's own by default",
        also=("target_modules", "modules"),
    )
    rank: Optional[int] = key(
        None,
        "rank of each adapted matrix, or width of a bottleneck, or number of virtual tokens; the method's own by default",
        low=1,
        also=("r", "lora_r", "lora_rank", "num_virtual_tokens", "bottleneck"),
    )
    alpha: Optional[float] = key(
        None, "numerator of the scale; the method's own by default", above=0, also=("lora_alpha",)
    )
    dropout: float = key(0.0, "dropout on the adapter's input", low=0, below=1, also=("lora_dropout",))
    delta: Optional[str] = key(None, "the parametrisation of the update", choices=names_of("deltas"))
    init: Optional[str] = key(
        None, "how its tensors start", choices=names_of("inits"), also=("init_lora_weights", "init_weights")
    )
    init_svd: str = key(
        "randomised",
        "how a start finds the first singular vectors of matrices with more than 1,024 rows and columns: a randomised SVD, "
        "seeded, or the exact one, which takes minutes a site",
        choices=("randomised", "exact"),
    )
    init_batches: int = key(8, "training batches that an init looks at, where it looks at data", low=1)
    init_steps: int = key(
        5,
        "how often, at most, an init that quantises (loftq, lq_fisher, qpissa) alternates between rounding the weight and fitting A and B",
        low=1,
        also=("loftq_iter", "num_iter"),
    )
    scale: Optional[str] = key(
        None,
        "lora (alpha/r), rslora (alpha/sqrt r), constant (alpha) or none (1)",
        choices=("lora", "rslora", "constant", "none"),
        also=("scaling",),
    )
    trainable: Optional[str] = key(
        None,
        "which tensors train: all, or roles joined by +, e.g. B",
        pattern=(r"[A-Za-z]\w*(\+[A-Za-z]\w*)*", "all, or tensor roles joined by +, e.g. B or A+B"),
    )
    decomposition: Optional[str] = key(
        None, "none or magnitude (DoRA)", choices=("none", "magnitude"), also=("use_dora", "dora")
    )
    lr_ratio: Optional[float] = key(
        None, "learning rate of B over that of A (LoRA+)", above=0, also=("loraplus_lr_ratio",)
    )
    options: dict[str, str] = key({}, "settings of the method's delta alone: see `lorakit show METHOD`")
    start: Optional[str] = key(
        None, "a run or adapter folder of the same adapter to start from", also=("init_from", "warm_start")
    )
    experts: list[str] = key(
        [],
        "finished runs over this model whose adapters, frozen, are the experts of a mixture (x_lora, token_level, lora_moe, molora)",
        also=("adapters",),
    )
    start_head: bool = key(
        True, "start: whether its head comes along; false: the head starts as it does without a start"
    )
    in_full: Optional[list[str]] = key(
        None,
        "what of the model's own parameters trains beside its adapters: norms, embeddings; the method's own by default",
        choices=IN_FULL,
        also=("modules_to_save", "trainable_params"),
    )
    shortcuts: list[str] = key([], "LoRA-adapted shortcuts to add: res1 res2 in cut mid", choices=SHORTCUTS)
    shortcut_rank: Optional[int] = key(None, "rank of the shortcuts; rank by default", low=1)
    shortcut_alpha: Optional[float] = key(None, "alpha of the shortcuts; alpha by default", above=0)
    shortcut_norm: str = key(
        "fused",
        "fused: added before the block's own norm; paper: the norm is applied a second time",
        choices=("fused", "paper"),
    )
    allocation: dict[str, int] = key(
        {},
        "site name -> rank; sites left out are off. Written by `lorakit search`",
        low=1,
        also=("rank_pattern",),
    )
    site_options: dict[str, str] = key(
        {}, "site name -> its own options, as NAME=VALUE,NAME=VALUE. Written by `lorakit search --method glora`"
    )
    updates: Optional[list[str]] = key(
        None,
        "what goes on during training: see `lorakit list updates`; the method's own by default",
        choices=names_of("updates"),
    )
    update_options: dict[str, str] = key({}, "settings of the updates: see `lorakit show UPDATE`")


@dataclass
class SearchSection:
    """Which sites get the budget, and when that is decided."""

    method: str = key(
        "none",
        "who decides: none, or an allocator of `lorakit list methods`; glora is a command: `lorakit search --method glora`",
        choices=lambda: ["none", *names_of("allocators")()],
    )
    preset: Optional[str] = key(
        None,
        "heterolora: paper, the authors' settings, for comparison; or best, the best settings that lorakit found for it",
        choices=("paper", "best"),
    )
    proxy: str = key("gradnorm", "see `lorakit list proxies`", choices=names_of("proxies"))
    proxy_options: dict[str, str] = key({}, "settings of the proxy alone: see `lorakit show PROXY`")
    every: float = key(0.2, "epochs between ticks, from step 0", above=0)
    enable: Optional[float] = key(
        None,
        "budget as the share of all sites' parameters; where no budget is given the search's own, 0.25 for heterolora",
        above=0,
        high=1,
    )
    uniform_rank: Optional[int] = key(None, "budget as what this rank would cost on every site", low=1)
    parameters: Optional[int] = key(None, "budget as a number of parameters, the head not counted", low=1)
    unit: str = key(
        "parameters",
        "what the budget counts: parameters, or modules as the paper does",
        choices=("parameters", "modules"),
    )
    pool: str = key(
        "combined",
        "combined: one ranking; separated: linear sites and shortcuts each get their share",
        choices=("combined", "separated"),
    )
    off: str = key(
        "drop", "drop: an off site leaves the function; freeze: it stays, without training", choices=("drop", "freeze")
    )
    warmup: float = key(
        0.0, "share of the training before the first cut, with every site on", low=0, below=1, also=("tinit",)
    )
    tail: float = key(0.0, "share of the training at its end without switching", low=0, below=1, also=("tfinal",))
    scoring: str = key(
        "separate",
        "separate: passes of its own at each tick; streaming: the gradients of the training steps before it, nearly free",
        choices=("separate", "streaming"),
    )
    options: dict[str, str] = key({}, "settings of the allocator alone: see `lorakit show ALLOCATOR`")
    batches: int = key(8, "training batches scored at each tick; streaming: optimiser steps", low=1)
    data: str = key(
        "sampled",
        "sampled: fresh training batches at each tick; first: always the first ones",
        choices=("sampled", "first"),
    )
    mode: str = key("eval", "eval: without dropout while scoring; train: with it", choices=("eval", "train"))


@dataclass
class TrainingSection:
    """The loop and its optimiser."""

    epochs: float = key(3.0, "passes over the training rows", above=0, also=("num_train_epochs", "num_epochs"))
    max_steps: Optional[int] = key(None, "stop after this many optimiser steps", low=1, also=("steps",))
    batch_size: int = key(
        32, "rows per forward pass, over all processes", low=1, also=("per_device_train_batch_size", "train_batch_size")
    )
    accumulate: int = key(
        1, "forward passes per optimiser step", low=1, also=("gradient_accumulation_steps", "accumulation")
    )
    micro_tokens: Optional[int] = key(
        None,
        "tokens of a forward pass, padding too: a batch of more is computed in parts, in less memory and with the same gradients",
        low=1,
        also=("batch_tokens", "max_tokens", "max_tokens_per_batch"),
    )
    lr: Union[float, str, None] = key(
        None,
        "peak learning rate of the adapters; the method's usual one by default; auto: found before the first step",
        words=(AUTO,),
        above=0,
        also=("learning_rate",),
    )
    head_lr: Optional[float] = key(None, "learning rate of the new head; lr by default", above=0)
    optimizer: str = key(
        ADAMW,
        "what turns gradients into steps; those beside AdamW keep less of each number: see `lorakit list optimizers`",
        choices=names_of("optimizers"),
        also=("optim", "optimiser"),
    )
    optimizer_options: dict[str, str] = key({}, "settings of the optimiser alone: see `lorakit show OPTIMIZER`")
    weight_decay: float = key(0.01, "decoupled weight decay", low=0, also=("wd",))
    schedule: str = key(
        "linear",
        "how the learning rate falls",
        choices=("linear", "cosine", "constant"),
        also=("lr_scheduler_type", "scheduler", "lr_scheduler"),
    )
    warmup: float = key(
        0.06,
        "share of the steps with rising learning rate",
        low=0,
        high=1,
        also=("warmup_ratio", "warmup_steps"),
    )
    average: Optional[float] = key(
        None,
        "share of the steps, the last ones, whose weights are averaged into those the run ends with; null or 0: none",
        low=0,
        below=1,
        also=("tail_average", "swa", "weight_averaging"),
    )
    average_of: str = key(
        "products",
        "what of adapters whose update is a product B A: the products, cut back to their rank, or the factors by themselves",
        choices=("products", "factors"),
    )
    clip: float = key(1.0, "gradient norm limit; 0 switches it off", low=0, also=("max_grad_norm", "grad_clip"))
    nonfinite: str = key(
        "stop",
        "at a loss or gradient that is NaN or infinite: stop the run, or skip the step where the gradient is",
        choices=("stop", "skip"),
        also=("on_nan", "skip_nan"),
    )
    precision: str = key(
        "fp32", "autocast: fp32, bf16 or fp16", choices=("fp32", "bf16", "fp16"), also=("mixed_precision",)
    )
    gradient_checkpointing: bool = key(
        False,
        "layers keep their inputs alone and are computed again on the way back: less memory, more time, the same result",
        also=("activation_checkpointing", "use_gradient_checkpointing"),
    )
    loss: str = key(
        "cross_entropy",
        "of classes: cross_entropy, or focal, where rows that are right already count little",
        choices=("cross_entropy", "focal"),
        also=("loss_function", "criterion"),
    )
    focal_gamma: float = key(2.0, "focal: how little; 0 is cross-entropy", low=0, also=("gamma",))
    label_smoothing: float = key(
        0.0,
        "the share of each row's label that is spread over all classes",
        low=0,
        below=1,
        also=("label_smoothing_factor",),
    )
    class_weights: Any = key(
        "none",
        "none; balanced: classes weigh the same together, however rare; or label -> weight, 1 where left out. A step's loss is "
        "divided by the weights of its rows",
        choices=("none", "balanced"),
        mapping=float,
        above=0,
        also=("class_weight", "weights", "pos_weight"),
    )
    early_stopping: dict[str, float] = key(
        {},
        "patience: evaluations without a better score after which the training ends; min_delta: how much better counts (0)",
        low=0,
        also=("early_stopping_patience", "patience", "early_stopping_threshold", "min_delta"),
    )
    select: str = key(
        "last",
        "the weights that predict, eval, merge and export take where nobody says: last, or best on the validation split",
        choices=("last", "best"),
        also=("load_best_model_at_end", "save_best_model"),
    )
    freeze_below: Union[int, str, None] = key(
        None,
        "so many lower layers get no adapters and no dropout, and are run once a row; auto: as many as gradients are small in",
        words=(AUTO,),
        low=0,
        also=("frozen_layers", "num_frozen_layers", "freeze_layers"),
    )
    freeze_cache: float = key(
        4.0,
        "freeze_below: GiB on disk for what these layers make of the rows; where it takes more they run anew",
        low=0,
    )
    freeze_dtype: str = key(
        "own",
        "freeze_below: how that is kept: own, as it comes, or rounded to half the size",
        choices=("own", "float32", "bfloat16", "float16"),
    )
    length_grouping: bool = key(True, "batches of similar length: less padding", also=("group_by_length",))
    cuda_graphs: Union[bool, str] = key(
        AUTO,
        "on a GPU: start the kernels of a step by one call; pads batches to a multiple of 16; auto: where steps can be replayed",
        words=(AUTO,),
    )


@dataclass
class EvaluationSection:
    """When the validation split is scored."""

    every: float = key(1.0, "epochs between evaluations; the last step is always evaluated", above=0)
    every_steps: Optional[int] = key(
        None, "the same in optimiser steps; takes the place of every", low=1, also=("eval_steps",)
    )
    batch_size: int = key(64, "rows per forward pass", low=1, also=("per_device_eval_batch_size", "eval_batch_size"))
    calibrate: bool = key(
        True,
        "fit a temperature on the validation rows that makes probabilities agree with how often they are right; no label changes",
        also=("calibration", "temperature_scaling", "temperature"),
    )
    baselines: list[str] = key(
        ["majority", "tfidf"],
        "simple classifiers to compare to: majority, tfidf (seconds), frozen (the model's features before training; a forward "
        "pass over at most 2,000 training rows and the validation rows)",
        choices=("majority", "tfidf", "frozen"),
    )


@dataclass
class RunSection:
    """Where things go, and what makes them repeatable."""

    name: Optional[str] = key(
        None,
        "the recipe file's name by default",
        pattern=(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+", "a folder name, without slashes"),
        also=("run_name",),
    )
    folder: str = key("runs", "runs are folders in here", also=("output_dir", "out", "dir"))
    seed: int = key(0, "the one seed that all streams derive from", low=0, high=2**32 - 1)
    trackers: list[str] = key(
        [], "tensorboard, wandb and what else Accelerate knows", choices=tracker_names, also=("report_to", "tracker")
    )
    log_every: int = key(10, "optimiser steps between lines of metrics.jsonl", low=1, also=("logging_steps",))
    checkpoint_every: float = key(1.0, "epochs between checkpoints", above=0, also=("save_steps",))
    keep_checkpoints: int = key(2, "how many are kept", low=1, also=("save_total_limit",))
    offline: bool = key(False, "never touch the network", also=("local_files_only",))


@dataclass
class Recipe:
    """Everything one training needs."""

    model: ModelSection = field(default_factory=ModelSection)
    task: TaskSection = field(default_factory=TaskSection)
    adapter: AdapterSection = field(default_factory=AdapterSection)
    search: SearchSection = field(default_factory=SearchSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    run: RunSection = field(default_factory=RunSection)


SEARCH_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "search.unit": "modules",
        "search.every": 0.2,
        "search.enable": 0.25,
        "search.pool": "combined",
        "search.off": "drop",
        "search.batches": 32,
        "search.data": "first",
        "search.mode": "train",
        "search.proxy_options": {
            "norm": "l2",
            "untrained": "literal",
            "tolerance": "0.005",
        },  # those of them that the proxy has
        "adapter.shortcut_norm": "paper",
    },
    "best": {  # of what was tried for heterolora on held-out training rows: see scripts/README.md
        "search.scoring": "streaming",
        "search.batches": 2,
        "search.warmup": 0.1,
        "search.tail": 0.3,
        "search.options": {"per": "role", "smooth": "0.5", "inertia": "0.3"},
    },
}
