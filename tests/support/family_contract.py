"""What must hold for every architecture that can be trained, and what is found out on the way: the table in the backbone's README.

python -m support.family_contract        # from tests/, writes that table's data again; then scripts/readme_tables.py
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import PeftModel
from support.every_family import EVERY_FAMILY, tiny_classifier, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from lorakit.adapters.adapted_model import AdaptedModel
from lorakit.adapters.attach import attach
from lorakit.adapters.method import resolve, shortcut_spec
from lorakit.adapters.switching import DROPPED, ON
from lorakit.artifacts.merge import check_foldable, fold, save_merged
from lorakit.artifacts.peft.export import peft_form
from lorakit.backbone.guessing import left_out
from lorakit.backbone.load import Backbone, load_backbone, quiet_transformers
from lorakit.backbone.padding import padding_note
from lorakit.backbone.unusable import refuse_unusable
from lorakit.errors import LorakitError
from lorakit.recipe.schema import AdapterSection, ModelSection, Recipe
from lorakit.tasks.batching import Encoded
from lorakit.workflow.parts import encode_rows
from lorakit.workflow.sites import choose_sites

TABLE = Path(__file__).parents[2] / "scripts" / "every_family.json"
ROWS = {
    "text": ["a good film", "the plot was never dull , and the cast likes the old joke ! " * 2 + "yes", "bad"],
    "text_pair": ["no", "the dog sees one , two or three red cars very slow and never quite likes the sun", "dull"],
    "idx": [0, 1, 2],
    "label": [0, 1, 0],
}
RECIPE = Recipe(adapter=AdapterSection(targets=["all"], rank=2))
LONG = 100  # tokens; the tiny models' tables of positions are shorter


@dataclass
class Tried:
    """A tiny model that was loaded, adapted everywhere, and trained for two steps."""

    folder: Path
    backbone: Backbone
    adapted: AdaptedModel
    rows: Encoded
    learning: list[str]
    """The sites whose adapters got a gradient."""


def logits(model: Any, rows: Encoded, chosen: list[int]) -> torch.Tensor:
    """(chosen, labels), as lorakit batches rows."""
    batch = rows.collate(chosen)
    batch.pop("labels")
    found: torch.Tensor = model(**batch).logits
    return found


@torch.no_grad()
def all_logits(model: Any, rows: Encoded) -> torch.Tensor:
    """(rows, labels), in the batches in which lorakit predicts."""
    found = torch.zeros(len(rows), 2)
    for batch in rows.batches(len(rows)):
        found[batch] = logits(model, rows, batch)
    return found


def plain(folder: Path, backbone: Backbone) -> Any:
    """The checkpoint as transformers loads it, told the pad token and, of BigBird's kind, to attend to all tokens."""
    kind = getattr(backbone.model.config, "attention_type", None)
    options = {"num_labels": 2} | ({} if kind is None else {"attention_type": kind})
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = backbone.tokenizer.pad_token_id
    return model


def attempt(family: str, folder: Path) -> Tried:
    """Load, compare, adapt and train a tiny model of this family. AssertionError where anything is not as it must be."""
    refuse_unusable(tiny_config(family), family)
    tiny_classifier(family, folder)
    backbone = load_backbone(ModelSection(name=str(folder)), labels=("LABEL_0", "LABEL_1"), regression=False, seed=0)
    assert backbone.new_parts, "no head trains"
    rows = encode_rows(Dataset.from_dict(ROWS), backbone, backbone.longest_text(60))
    check_labels_are_the_texts_own(backbone, rows)
    check_the_longest_text_fits(backbone)
    before = all_logits(backbone.model, rows)
    sites, ranks = choose_sites(RECIPE, backbone)
    adapted = attach(backbone, sites, resolve(RECIPE.adapter), shortcut_spec(RECIPE.adapter), ranks=ranks)
    assert torch.equal(all_logits(adapted.model, rows), before), "fresh adapters change the function"
    learning = train(adapted, rows)
    check_streaming(adapted, rows, learning)
    assert not torch.equal(all_logits(adapted.model.eval(), rows), before), "training changes nothing"
    return Tried(folder, backbone, adapted, rows, learning)


def check_labels_are_the_texts_own(backbone: Backbone, rows: Encoded) -> None:
    """A row's logits alone are those in a batch, and others for another text; plain transformers has the same."""
    with torch.no_grad():
        alone = torch.cat([logits(backbone.model, rows, [row]) for row in range(len(rows))])
        torch.testing.assert_close(
            logits(plain(backbone.folder, backbone), rows, [1]), alone[1:2], rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(all_logits(backbone.model, rows), alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def check_the_longest_text_fits(backbone: Backbone) -> None:
    """The model reads as many tokens as lorakit leaves a text, and no more where that is fewer than were wanted."""
    most = backbone.longest_text(LONG) // backbone.padding.multiple * backbone.padding.multiple

    def read(length: int) -> None:
        tokens = torch.full((1, length), 7)
        tokens[0, -1] = backbone.tokenizer.eos_token_id
        with torch.no_grad():
            backbone.model(input_ids=tokens, attention_mask=torch.ones_like(tokens))

    read(most + backbone.padding.spare)
    if most < LONG:
        try:
            read(most + backbone.padding.spare + 1)
        except (IndexError, RuntimeError):
            return
        raise AssertionError("texts are cut shorter than the model needs them to be")


def train(adapted: AdaptedModel, rows: Encoded) -> list[str]:
    """Two steps on one batch; the sites whose adapters got a gradient."""
    parameters = [tensor.parameter for tensor in adapted.trained()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    learning = set()
    adapted.model.train()
    for _ in range(2):
        loss = F.cross_entropy(logits(adapted.model, rows, [0, 1, 2]), torch.tensor(ROWS["label"]))
        assert loss.isfinite()
        loss.backward()
        learning |= {tensor.site for tensor in adapted.trained() if tensor.site and touched(tensor.parameter)}
        optimizer.step()
        optimizer.zero_grad()
    return [name for name in adapted.adapters if name in learning]


def touched(parameter: torch.nn.Parameter) -> bool:
    """Whether it has a gradient that is not zero."""
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)


def check_streaming(adapted: AdaptedModel, rows: Encoded, learning: list[str]) -> None:
    """Sites that are off are scored from outside the function, also where a layer changes its outputs in place."""
    for adapter in adapted.adapters.values():
        adapter.switch(DROPPED)
    adapted.watch(True)
    F.cross_entropy(logits(adapted.model, rows, [0, 1, 2]), torch.tensor(ROWS["label"])).backward()
    watched = {tensor.site for tensor in adapted.trained() if tensor.site and touched(tensor.parameter)}
    assert watched >= set(learning)
    adapted.watch(False)
    for adapter in adapted.adapters.values():
        adapter.switch(ON)
    adapted.model.zero_grad()


@torch.no_grad()
def merges_and_exports(tried: Tried) -> tuple[str, str]:
    """For both, after the adapters were moved far: yes, or why not."""
    generator = torch.Generator().manual_seed(7)
    for tensor in tried.adapted.trained():
        tensor.parameter.add_(0.1 * torch.randn(tensor.parameter.shape, generator=generator))
    expected = all_logits(tried.adapted.model, tried.rows)
    exports = exported(tried, expected)
    return merged(tried, expected), exports


def exported(tried: Tried, expected: torch.Tensor) -> str:
    """Whether PEFT, on plain transformers' model, has the same logits."""
    if tried.backbone.padding.spare:  # see lorakit/workflow/export.py
        return "no: nothing but lorakit pads so"
    place = tried.folder / "peft"
    place.mkdir()
    peft_form(tried.adapted).write(place)
    try:
        with quiet_transformers():
            read = PeftModel.from_pretrained(plain(tried.folder, tried.backbone), place)
    except Exception as error:  # whatever another library raises
        return f"no: PEFT cannot load it ({type(error).__name__})"
    return compared(all_logits(read.eval(), tried.rows), expected, "PEFT puts it elsewhere")


def merged(tried: Tried, expected: torch.Tensor) -> str:
    """Whether the merged checkpoint, in plain transformers, has the same logits."""
    place = tried.folder / "merged"
    place.mkdir()
    try:
        check_foldable(tried.adapted)
    except LorakitError as error:
        return f"no: {shortly(error)}"
    fold(tried.adapted)
    save_merged(tried.adapted, place, [], LONG, closed=False)
    return compared(all_logits(plain(place, tried.backbone), tried.rows), expected, "other logits")


def compared(found: torch.Tensor, expected: torch.Tensor, otherwise: str) -> str:
    """Yes, or no and ``otherwise``."""
    return "yes" if torch.allclose(found, expected, rtol=1e-3, atol=1e-4) else f"no: {otherwise}"


def facts(tried: Tried) -> str:
    """What else there is to say of a family that trains: its padding, sites that cannot learn, what is left out."""
    backbone, sites = tried.backbone, len(tried.adapted.adapters)
    prefix = f"{backbone.model.config.model_type} models "
    notes = [padding_note(backbone.model.config).removeprefix(prefix)]
    notes += [note.removeprefix(prefix) for note in backbone.notes if "attend to all tokens" in note]
    if len(tried.learning) < sites:
        notes.append(f"{sites - len(tried.learning)} of {sites} sites are on no path from a text to its label")
    if found := left_out(backbone.anatomy.layers):
        notes.append(f"not adapted: {', '.join(dict.fromkeys(name.partition(' ')[0] for name in found[:3]))}")
    return "; ".join(filter(None, notes))


def observe(family: str) -> dict[str, str]:
    """All that the table says of a family."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            tried = attempt(family, Path(folder))
        except LorakitError as error:
            return {"trains": f"no: {shortly(error)}", "merges": "", "exports": "", "notes": ""}
        found = facts(tried)
        merges, exports = merges_and_exports(tried)
        return {"trains": "yes", "merges": merges, "exports": exports, "notes": found}


def shortly(error: LorakitError) -> str:
    """The reason that an error gives, without the names of things."""
    text = error.problems[0].what.rpartition("cannot be trained here: ")[2].rpartition("cannot be merged: ")[2]
    if " are one weight of the model" in text:
        return "its blocks share their weights"
    return "it has no Linear modules" if text.startswith("no layers") else text


if __name__ == "__main__":
    found = {"transformers": transformers.__version__, "families": {name: observe(name) for name in EVERY_FAMILY}}
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
