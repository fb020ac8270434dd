"""Values of axes that do not go together, each with its reason: nothing is combined that does not commute.

init from W x switching off, a second adapter      commute: W is never rewritten, the start is subtracted (``anchored``)
init x scale                                       commute: an init is given s (``InitContext.scale``)
scale x pruning                                    commute: s is fixed with the rank that a site is built with
dropout x what is no sum                           refused; beside a magnitude it drops inputs of the adapter's branch alone
magnitude x a second adapter at once               refused (``switching.stack``)
magnitude x storing dW alone                       commute: everything reads ``Adapter.effective_weight``
freezing for good x scores of a search             `aflora` refuses a search; a tensor that `diff_pruning` froze scores 0
finished products x ranks by a search     refused: `restart` decides what trains; x quantised W: commute, W is not written
pushes of W by B A x dropout, searches for rank units   refused: the weight is pushed by what every input, and every unit, gave
element masks x momentum, weight decay             commute: masked again after every step; `rose` lets entries grow back
closed channels x searches, quantised or frozen layers, means over steps   refused: `prune_channels` says why of each
shared tensors x pruning, ranks by site            commute: a site's own tensors are pruned, a lower rank takes the first directions
shared tensors that train x search.off: freeze     refused: a frozen site would move
shared tensors alone x searches                    refused: no site has parameters of its own to be given or taken
shared tensors that train x scoring: streaming     refused: a site that is off would move those of the others
ratio of learning rates x vectors, gates           commute: groups by role; refused where A and B do not both train
frozen A x init that gives A                       commute; refused where what that init starts at zero does not train
anything but B A with both trained x squeeze        refused: there is no product to re-factor, or its start is subtracted
Adam's moments moved with the factors x optimisers without them   refused: `squeeze`, fresh moments of sites, pruned ones of `restart`
quantised W x DoRA, starts from W, merging          commute: W is made dense, one site at a time
inputs pooled by groups x other W than int4's     refused: it is made to merge into the zero points of the same groups
start that quantises W x another scale than its own refused: `dylora` with lora or rslora
start that quantises W x PEFT, combining, starting refused: its B A belongs to its own Q (``artifacts.base_file``)
mixed precisions x PEFT, combining                 refused for the same reason: the run chose them
quantised W x what holds W dense                   refused: it would save nothing; so is training W itself (``blocks.modules``)
norms, embeddings in full x quantised W, other deltas commute: each module has axes of its own (``counting.in_full``)
norms, embeddings in full x searches, frozen layers   refused: they are always on; so are methods with places of their own
attention in groups x virtual tokens               refused: one group alone would see them (``updates.shifted_attention``)
experts weighed by token x merging, PEFT, combining, magnitude  refused: no one matrix says the same (``mixture``)
experts weighed by token x sites switched by a search, quantised W   commute: W x is all that is needed of W
experts weighed by token x single rank units        refused by who takes them out: a unit belongs to one expert
experts of finished runs x searches, frozen layers, starts  refused: they were trained as wholes (``workflow.experts``)
parameters of two modules x training them          refused (``blocks.modules``); no delta sits on embeddings' weights otherwise
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lorakit.adapters.declaration import START
from lorakit.adapters.delta import Delta, deltas
from lorakit.adapters.init import Init, inits
from lorakit.backbone.quantised import KEY, KINDS, NONE
from lorakit.errors import Problem
from lorakit.recipe.schema import AdapterSection, ModelSection, SearchSection

if TYPE_CHECKING:
    from lorakit.adapters.spec import AdapterSpec

MAGNITUDE = "magnitude"


def conflicts(spec: AdapterSpec) -> list[Problem]:
    """Everything about ``spec`` that does not go together. Raises UsageError for names that are not registered."""
    delta = deltas.get(spec.delta)
    init = inits.get(spec.init)
    return [problem for rule in RULES for problem in rule(spec, delta, init)]


def idle_settings(section: AdapterSection, init: Init) -> list[Problem]:
    """What the recipe says of the start and this start has no use for, beside what is in the spec."""
    problems = []
    if section.init_svd != AdapterSection.init_svd and not init.leading:
        names = ", ".join(name for name, each in inits.items() if each.leading)
        what = f"init '{init.name}' takes no first singular vectors: {section.init_svd} ones have no effect"
        valid = f"{AdapterSection.init_svd}, or adapter.init: {names}"
        problems.append(Problem(what, key="adapter.init_svd", valid=valid))
    if section.init_batches != AdapterSection.init_batches and not init.looks_at_data:
        names = ", ".join(name for name, each in inits.items() if each.looks_at_data)
        what = f"init '{init.name}' looks at no data: {section.init_batches} batches have no effect"
        valid = f"{AdapterSection.init_batches}, or adapter.init: {names}"
        problems.append(Problem(what, key="adapter.init_batches", valid=valid))
    return problems


def conflicts_with_search(spec: AdapterSpec, search: SearchSection) -> list[Problem]:
    """What of ``spec`` the recipe's search cannot do.

    Sites whose shared tensors train on for others can neither be frozen nor watched from outside; nor can what stands in for the
    module's own parameters, or is no module's forward. Where sites have nothing of their own there is nothing to search for.
    """
    delta = deltas.get(spec.delta)
    if search.method == "none":
        return []
    moving = [name for name, role in delta.shared_roles.items() if spec.trains(role)]
    problems = []
    if moving and not delta.roles:
        what = f"delta '{spec.delta}' has no tensors of a site's own: one that is off saves none, and there are none to give to another"
        return [Problem(what, key="search.method", valid="none with this adapter")]
    if search.off == "freeze" and moving:
        problems.append(
            Problem(
                f"sites of delta '{spec.delta}' share {' and '.join(moving)}: one that is frozen would move with the others",
                key="search.off",
                valid="drop",
            )
        )
    beside = not delta.replaces_parameters and {"linear", "conv1d"} & set(delta.kinds)
    if search.method == "heterolora" and search.scoring == "streaming" and (moving or not beside):
        why = f"they share {' and '.join(moving)}" if moving else "they are not computed beside a frozen layer"
        problems.append(
            Problem(
                f"sites of delta '{spec.delta}' that are off cannot be scored from training steps: {why}",
                key="search.scoring",
                valid="separate",
            )
        )
    if delta.over_runs == spec.delta:
        what = "the experts were trained with all of their sites: a search would take parts of them out, and pays for routers alone"
        problems.append(Problem(what, key="search.method", valid="none with adapter.experts"))
    if search.method == "lora_drop" and delta.pools_rows:
        what = f"allocator 'lora_drop' looks at single tokens, and delta '{spec.delta}' computes whole rows"
        problems.append(Problem(what, key="search.method", valid="none or heterolora with this adapter"))
    if search.method == "dylora" and inits.get(spec.init).quantises and spec.scale in ("lora", "rslora"):
        problems.append(
            Problem(
                f"init '{spec.init}' fits B A to its weights at the scale of rank {spec.rank}, and 'dylora' computes with fewer units at "
                "larger scales",
                key="search.method",
                valid="none with this start, or adapter.scale: constant or none",
            )
        )
    if search.method == "squeeze" and (why := unlike_a_product(spec)):
        problems.append(
            Problem(
                f"allocator 'squeeze' writes the factors of an update B A anew, and {why}",
                key="search.method",
                valid="none or heterolora with this adapter",
                hint="adapter.method=lora, rslora, lora_plus, dora or eva",
            )
        )
    return problems


def conflicts_with_base(spec: AdapterSpec, model: ModelSection) -> list[Problem]:
    """What of ``spec`` a quantised base cannot serve, or one that is not."""
    if model.quantization == NONE and inits.get(spec.init).quantises:
        what = f"init '{spec.init}' starts from what rounding the weights loses, and none are rounded"
        return [Problem(what, key=KEY, valid=", ".join(KINDS), hint=f"{KEY}=nf4, or another adapter.init")]
    delta = deltas.get(spec.delta)
    if delta.only_over:
        return mismatches(spec, delta.only_over, model)
    reason = delta.keeps_dense
    if model.quantization == NONE or not reason:
        return []
    what = f"delta '{spec.delta}' {reason}: quantised weights would save nothing"
    return [
        Problem(
            what, key=KEY, valid=f"{NONE} with this adapter", hint="adapter.method=lora, or another that adds to W x"
        )
    ]


def mismatches(spec: AdapterSpec, kind: str, model: ModelSection) -> list[Problem]:
    """What keeps an update that is the same for all inputs of a group from going into the groups of W."""
    if model.quantization != kind:
        what = f"delta '{spec.delta}' pools its inputs so that it merges into the zero points of {kind}"
        hint = f"{KEY}={kind}; or adapter.method=lora, which reads every input"
        return [
            Problem(f"{what}, and this model has none ({KEY} is {model.quantization})", key=KEY, valid=kind, hint=hint)
        ]
    own, group = spec.settings["group"], model.quantization_group
    if own != group:
        what = f"delta '{spec.delta}' pools groups of {own} inputs, and the weights are quantised in groups of {group}"
        return [
            Problem(what, key="adapter.options", valid=f"group: {group}", hint=f"adapter.options={{group: {group}}}")
        ]
    return []


def unlike_a_product(spec: AdapterSpec) -> str:
    """Why the update is not B A for two tensors that both train and may be any; empty where it is."""
    if not deltas.get(spec.delta).plain_product:
        return f"delta '{spec.delta}' is no plain product"
    if inits.get(spec.init).anchors:
        return f"init '{spec.init}' starts from factors that are subtracted again"
    if not (spec.trains("A") and spec.trains("B")):
        return f"with trainable '{spec.trainable}' one of the two does not train"
    return ""


def roles_of(delta: type[Delta]) -> set[str]:
    """The roles that the delta's tensors play, those of shared ones included, of tensors that may train."""
    return {*delta.roles.values(), *delta.shared_roles.values()} - {START}


def trainable_names_roles(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """What is to train must be there."""
    roles, wanted = roles_of(delta), set(spec.trainable.split("+"))
    if spec.trainable != "all" and not (wanted & roles and wanted <= roles | {MAGNITUDE}):
        yield Problem(
            f"trainable '{spec.trainable}' does not name the tensors of delta '{spec.delta}'",
            key="adapter.trainable",
            valid=f"all, or of {'+'.join(sorted(roles))}, with +magnitude where there is one",
        )


def nothing_is_stuck(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """A factor that starts at zero and never trains keeps the whole update at zero."""
    roles = {**delta.roles, **delta.shared_roles}
    if init.zero and delta.takes_factors:  # all factors are given, so that nothing else starts at zero
        stuck = next((name for name, role in roles.items() if role == init.zero and not spec.trains(role)), "")
    else:
        stuck = "" if init.anchors else delta.stuck(spec.trains)
    if stuck and set(spec.trainable.split("+")) & roles_of(delta):
        yield Problem(
            f"'{stuck}' starts at zero and does not train with trainable '{spec.trainable}': the update would stay zero",
            key="adapter.trainable",
            valid=f"all, or roles with {roles[stuck]} among them",
        )


def magnitude_needs_a_sum(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """DoRA normalises W + s dW: there must be such a sum, the same for every input."""
    if spec.decomposition == MAGNITUDE and not (delta.additive and not delta.unmergeable):
        yield Problem(
            f"delta '{spec.delta}' is no sum W + s dW that a magnitude could normalise",
            key="adapter.decomposition",
            valid="none",
        )


def dropout_needs_a_branch(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """Dropout acts on the adapter's own branch; what rewrites the layer itself has none."""
    if spec.dropout > 0 and not (delta.additive or delta.branches):
        yield Problem(
            f"delta '{spec.delta}' has no branch of its own to drop inputs of", key="adapter.dropout", valid="0"
        )


def scale_needs_a_sum(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """A scale multiplies an additive update, or a branch."""
    if spec.scale != "none" and not (delta.additive or delta.branches):
        yield Problem(
            f"delta '{spec.delta}' has no update that a scale could multiply", key="adapter.scale", valid="none"
        )


def init_has_something_to_draw(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """An init without anything to draw would be silently without effect, and what is to be drawn must be."""
    if not delta.needs_init() and init.name != "nothing":
        yield Problem(
            f"every tensor of delta '{spec.delta}' has a start of its own: init '{spec.init}' would have no effect",
            key="adapter.init",
            valid="nothing",
        )
    if delta.needs_init() and init.name == "nothing":
        yield Problem(f"delta '{spec.delta}' has tensors to draw", key="adapter.init", valid="kaiming, gaussian, ...")


def init_fits_the_delta(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """An init that gives factors needs a delta that takes them."""
    if init.factors and not delta.takes_factors:
        takers = [name for name, kind in deltas.items() if kind.takes_factors]
        yield Problem(
            f"init '{spec.init}' gives factors B and A, which delta '{spec.delta}' cannot take",
            key="adapter.init",
            valid=f"another init, or a delta of {', '.join(takers)}",
        )


def ratio_has_both(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """A learning rate of B over that of A needs both to train."""
    if spec.lr_ratio != 1 and not all(role in roles_of(delta) and spec.trains(role) for role in ("A", "B")):
        yield Problem(
            f"the learning rate of B over that of A is {spec.lr_ratio:g}, but delta '{spec.delta}' with trainable "
            f"'{spec.trainable}' does not train both: it has no effect",
            key="adapter.lr_ratio",
            valid="1",
        )


def steps_have_their_init(spec: AdapterSpec, delta: type[Delta], init: Init) -> Iterator[Problem]:
    """Only an init that quantises alternates."""
    if spec.init_steps != AdapterSection.init_steps and not init.quantises:
        names = ", ".join(name for name, each in inits.items() if each.quantises)
        yield Problem(
            f"init '{init.name}' does not alternate: {spec.init_steps} steps have no effect",
            key="adapter.init_steps",
            valid=f"{AdapterSection.init_steps}, or adapter.init: {names}",
        )


RULES: tuple[Callable[[AdapterSpec, type[Delta], Init], Iterator[Problem]], ...] = (
    trainable_names_roles,
    nothing_is_stuck,
    magnitude_needs_a_sum,
    dropout_needs_a_branch,
    scale_needs_a_sum,
    init_has_something_to_draw,
    init_fits_the_delta,
    ratio_has_both,
    steps_have_their_init,
)
