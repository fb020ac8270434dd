"""``lorakit show METHOD``: what a method is, what it costs on a model, what it goes together with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorakit.cli.output import write
from lorakit.reporting.tables import Column, count, facts, table

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.describe import Count, MethodCard


def tell(card: MethodCard, *, further: Sequence[str]) -> None:
    """Write the card, and the cards of what belongs to the method."""
    write(f"{card.name}: {card.title} (method)\n\n{card.text}\n")
    pairs = preset(card)
    if card.count is None:
        write(facts([*pairs, ("parameters", f"not counted: {card.no_count}")]))
    else:
        rank = f", rank {card.count.rank}" if "rank" in card.usual else ""
        write(facts([*pairs, ("counted on", f"{card.count.model}{rank}")]))
        write(site_table(card.count), facts([("parameters", total(card.count))]))
    write(*(f"\n{text}" for text in further))


def preset(card: MethodCard) -> list[tuple[str, str]]:
    """The method's axes and usual values, and what goes together with it, as (name, value) pairs."""
    usual = ", ".join(f"{key} {shown(value)}" for key, value in card.usual.items())
    axes = ", ".join(f"{key} {shown(value)}" for key, value in card.axes.items() if value not in (None, []))
    pairs = [("axes", axes), ("usual values", usual)]
    pairs += [(f"option {key}", text) for key, text in card.options.items()]
    for axis, values in card.composes.items():
        fits = [value for value, reason in values.items() if not reason]
        reasons = "; ".join(dict.fromkeys(reason for reason in values.values() if reason))
        verdict = f"no: {reasons}" if not fits else "yes" if len(values) == 1 else ", ".join(fits)
        pairs.append((f"with {axis}", verdict))
    return [*pairs, ("source", card.source)]


def site_table(counted: Count) -> Table:
    """The sites by role and shape, with their parameters."""
    columns = [
        Column("role", lambda site: site.role),
        Column("sites", lambda site: site.sites, right=True),
        Column("shape", lambda site: site.shape, right=True),
        Column("parameters", lambda site: count(site.parameters), right=True),
        Column(
            "tensors of each",
            lambda site: ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in site.tensors.items()),
        ),
    ]
    return table(counted.sites, columns)


def total(counted: Count) -> str:
    """The method's parameters, and their share of the model's."""
    shared = f", {count(counted.shared)} of them shared by its sites" if counted.shared else ""
    return f"{count(counted.parameters)} ({counted.share:.3g} % of the model){shared}; the head not counted"


def shown(value: object) -> str:
    """A value in a card."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
