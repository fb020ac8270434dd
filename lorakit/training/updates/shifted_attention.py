"""S2-Attn: shifted sparse attention while training (Chen et al. 2024, LongLoRA, arXiv 2309.12307, section 3.2).

    half of the heads    tokens attend within groups of G: [0, G), [G, 2G), ...
    the other half       within groups shifted by G/2: [0, G/2), [G/2, 3G/2), ..., so that neighbouring groups exchange something

The attention of a row of n tokens costs n G products in place of n^2. Evaluation, prediction and scoring without dropout have the model's
own full attention, and no weight belongs to it: it goes with every method that adds no virtual tokens. Masks, padding and causal order
stay the model's. A row of at most G tokens is attended in full. G is `group`: a number of tokens, or a share of task.max_length.
It needs a model whose attention transformers calls by name (Llama, Mistral, Qwen, GPT-NeoX, GPT-2, OPT, BERT and its like).
Differs from the authors' code in: G is a number for the run, theirs a quarter of the batch's padded length, which it must divide; rows are
counted from their own first token; no group wraps around the ends, as in their path for flash attention: in their other path the shifted
heads' first tokens see the last ones. It masks what is padding in every row, where theirs repeats a batch's masks in another order.
When to use it: for rows of thousands of tokens, beside trained norms and embeddings (method longlora).
"""

from __future__ import annotations

from typing import ClassVar

from lorakit.adapters.delta import deltas
from lorakit.adapters.options import Option
from lorakit.adapters.spec import AdapterSpec
from lorakit.backbone.attention import attention_modules
from lorakit.backbone.load import Backbone
from lorakit.backbone.shifted_attention import ATTENTIONS, ShiftedAttention
from lorakit.errors import Problem, RecipeError
from lorakit.recipe.schema import Recipe
from lorakit.training.hooks import TrainState
from lorakit.training.update import Update, UpdateContext, chosen_updates, updates

FAMILIES = ("bert", "distilbert", "electra", "gpt2", "gpt_neox", "llama", "opt", "roberta")
SMALLEST = 2


class ShiftedSparseAttention(Update):
    """attention: puts S2-Attn into the layers; it acts in training mode alone."""

    name = "shifted_attention"
    summary = "half of the heads attend within groups of tokens, the others within groups shifted by half of one"
    source = "Chen et al. 2024, LongLoRA, arXiv 2309.12307, section 3.2"
    sees_tokens = True
    options: ClassVar = {
        "group": Option(0.25, "tokens of a group, or below 1 their share of task.max_length", above=0),
    }

    @classmethod
    def refusals(cls, recipe: Recipe, spec: AdapterSpec) -> list[Problem]:
        """It takes an attention that has a mask, tokens that are the row's own, and nothing else that hides some."""
        problems = []
        if recipe.model.attention not in ATTENTIONS:
            what = f"update '{cls.name}' cannot be put into {recipe.model.attention}"
            problems.append(Problem(what, key="model.attention", valid=", ".join(ATTENTIONS)))
        if {"layer", "input"} & set(deltas.get(spec.delta).kinds):
            what = f"update '{cls.name}' cuts a row into groups, and only the first would see the virtual tokens of '{spec.delta}'"
            problems.append(
                Problem(what, key="adapter.updates", valid="[] with this method", hint="adapter.method=longlora")
            )
        if any(kind.name == "hidden_key" for kind, _ in chosen_updates(recipe)):
            what = f"update '{cls.name}' tells a row's length by the keys that are seen, and 'hidden_key' hides some"
            problems.append(Problem(what, key="adapter.updates", valid="one of the two"))
        return problems

    @classmethod
    def check_model(cls, backbone: Backbone) -> None:
        """RecipeError where the attention is not computed by one of transformers' functions, or there are no heads to halve."""
        config, family = backbone.model.config.get_text_config(), backbone.anatomy.family
        single = all(len(attention_modules(layer)) == 1 for _, layer in backbone.anatomy.layers)
        if family not in FAMILIES or not single or config._attn_implementation not in ATTENTIONS:
            raise RecipeError(
                f"update '{cls.name}' has no way into the attention of a {family} model",
                key="adapter.updates",
                valid=f"[] with this model; models of {', '.join(FAMILIES)} with it",
                hint="adapter.updates=[]",
            )
        if config.num_attention_heads < 2:
            raise RecipeError(f"update '{cls.name}' halves the heads, and there is one", key="adapter.updates")

    def __init__(self, context: UpdateContext):
        super().__init__(context)
        backbone, group = context.adapted.backbone, self.settings["group"]
        longest = backbone.longest_text(context.recipe.task.max_length)
        self.group = int(group if group >= 1 else group * longest)
        if self.group < SMALLEST:
            raise RecipeError(
                f"update 'shifted_attention' would have groups of {self.group} tokens",
                key="adapter.update_options",
                valid=f"group: {SMALLEST} or more, or a share of {longest} that is",
            )
        self.attention = ShiftedAttention([layer for _, layer in backbone.anatomy.layers], self.group)

    def on_train_end(self, state: TrainState) -> None:
        """Leave the model as it was."""
        self.attention.remove()


updates.register(ShiftedSparseAttention)
