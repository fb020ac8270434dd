"""What PEFT can read of a run, and the lines of Python that load it there."""

from __future__ import annotations

from typing import Any

from lorakit.artifacts.peft.export import PeftForm, peft_form
from lorakit.backbone.load import Backbone
from lorakit.backbone.model_folder import BUNDLED
from lorakit.backbone.padding import padding_note
from lorakit.backbone.quantised import NONE
from lorakit.backbone.readout import OWN, READOUTS
from lorakit.backbone.rope_scaling import KEY as ROPE_SCALING
from lorakit.backbone.rope_scaling import divides
from lorakit.errors import RunError, command_line
from lorakit.recipe.schema import ModelSection
from lorakit.reporting.model_card import FIND, quoted, usage
from lorakit.workflow.restore import RestoredRun


def as_peft(restored: RestoredRun) -> PeftForm:
    """The run's adapter as PEFT has it. RunError that says why PEFT would not answer as the run does."""
    parts, run = restored.parts, restored.run.path
    if parts.backbone.padding.ours_alone:
        raise RunError(
            f"PEFT would answer otherwise: {padding_note(parts.backbone.model.config)}, which nothing but lorakit does",
            where=str(run),
            hint="lorakit.load reads the run, and a merged folder",
        )
    if parts.recipe.model.quantization != NONE:
        raise RunError(
            "an adapter of quantised weights cannot be exported yet: on the weights of before PEFT would answer otherwise",
            where=str(run),
            hint=f"lorakit.load reads the run, and {command_line('merge', run)} writes a plain checkpoint",
        )
    if parts.recipe.model.readout != OWN:
        told = READOUTS[parts.recipe.model.readout].told
        raise RunError(
            f"PEFT would answer otherwise: the head reads {told} (model.readout), which nothing but lorakit does",
            where=str(run),
            hint="lorakit.load reads the run, and a merged folder; a run with model.readout=own can be exported",
        )
    if parts.recipe.model.rope_scaling is not None and divides(parts.backbone.model.config):
        raise RunError(
            f"PEFT would answer otherwise: its adapter does not say by what the base model's positions are divided ({ROPE_SCALING})",
            where=str(run),
            hint=f"lorakit.load reads the run, and {command_line('merge', run)} writes a plain checkpoint",
        )
    return peft_form(restored.adapted)


def load_lines(restored: RestoredRun, base: str, folder: str, subfolder: str = "") -> str:
    """The lines of Python that load the adapter in ``folder`` with PEFT; base: the base model's name as such an expression."""
    parts, model = restored.parts, restored.parts.recipe.model
    plain_classes = not parts.task.regression and not parts.task.multi_label
    options: dict[str, Any] = {
        **({} if model.revision is None else {"revision": model.revision}),
        **({"trust_remote_code": True} if model.trust_remote_code else {}),
    }
    return usage(
        base,
        folder,
        parts.task.labels,
        pad_token(parts.backbone),
        model.dtype,
        parts.backbone.head.reshaped,
        "" if plain_classes else parts.backbone.model.config.problem_type,
        subfolder,
        options,
    )


def base_in_python(model: ModelSection) -> str:
    """How Python names the base model: by its name, or a bundled one by its folder in the installed package."""
    bundled = BUNDLED.get(model.name)
    if bundled is None:
        return quoted(model.name)
    return f'{FIND}("{bundled.package}").submodule_search_locations[0] + "/{bundled.folder}"'


def pad_token(backbone: Backbone) -> int | None:
    """The pad token that a model needs to find each text's end, where its checkpoint may not name it."""
    config = backbone.model.config
    return None if config.is_encoder_decoder or backbone.tokenizer.padding_side != "right" else config.pad_token_id
