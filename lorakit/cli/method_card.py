"""The card of a method for people: what it is, what it costs on a model, what it goes together with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from lorakit.workflow.describe import MethodCard


def show_method(name: str, model: str | None, *, as_json: bool) -> None:
    """Print the card of the method ``name``, counted on ``model``; one that is named must be there."""
    from lorakit.cli.options import before_imports
    from lorakit.cli.output import listening, write, write_json

    before_imports(offline=True, quiet=True)
    import lorakit

    with listening(quiet=True):
        card = lorakit.describe(name, model=model)
    if as_json:
        write_json(card.to_dict())
    else:
        write(f"{card.name}: {card.title} (method)\n\n{card.text}\n", *tables(card))


def tables(card: MethodCard) -> list[Table]:
    """The preset, the count on the model, and what goes together."""
    from lorakit.reporting.tables import Column, count, facts, table

    usual = ", ".join(f"{key} {shown(value)}" for key, value in card.usual.items())
    axes = ", ".join(f"{key} {shown(value)}" for key, value in card.axes.items() if value not in (None, []))
    pairs = [("axes", axes), ("usual values", usual)]
    pairs += [(f"option {key}", text) for key, text in card.options.items()]
    for axis, values in card.composes.items():
        fits = [value for value, reason in values.items() if not reason]
        reasons = "; ".join(dict.fromkeys(reason for reason in values.values() if reason))
        said = f"no: {reasons}" if not fits else "yes" if len(values) == 1 else ", ".join(fits)
        pairs.append((f"with {axis}", said))
    pairs.append(("source", card.source))
    if card.count is not None:
        rank = f", rank {card.count.rank}" if "rank" in card.usual else ""
        pairs.append(("counted on", f"{card.count.model}{rank}"))
    if card.count is None:
        return [facts([*pairs, ("parameters", f"not counted: {card.no_count}")])]
    counted = card.count
    sites = table(
        counted.sites,
        [
            Column("role", lambda site: site.role),
            Column("sites", lambda site: site.sites, right=True),
            Column("shape", lambda site: site.shape, right=True),
            Column("parameters", lambda site: count(site.parameters), right=True),
            Column(
                "tensors of each",
                lambda site: ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in site.tensors.items()),
            ),
        ],
    )
    shared = f", {count(counted.shared)} of them shared by its sites" if counted.shared else ""
    total = f"{count(counted.parameters)} ({counted.share:.3g} % of the model){shared}; the head not counted"
    return [facts(pairs), sites, facts([("parameters", total)])]


def shown(value: object) -> str:
    """A value in a card."""
    return (
        " ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
