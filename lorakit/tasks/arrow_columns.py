"""Columns of Arrow tables as Python values, as parquet files and the library ``datasets`` have them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from lorakit.errors import DataError
from lorakit.tasks.table import SHOWN_COLUMNS, Table, clipped

if TYPE_CHECKING:
    import pyarrow as arrow


@dataclass(frozen=True)
class ArrowColumns:
    """What is taken of Arrow tables of one schema.

    path: their name in messages; kept: the columns taken, inner ones of structs with dots; names: all columns; classes: class names
    by column, of columns that the library ``datasets`` wrote as ClassLabel.
    """

    path: str
    kept: tuple[str, ...]
    names: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, path: str, schema: arrow.Schema, wanted: Collection[str] | None) -> ArrowColumns:
        """The columns among ``wanted``, all that are not inside of others where it is None."""
        inner = (name for field in schema for name in inner_names(field.type, field.name))
        kept = [name for name in schema.names if wanted is None or name in wanted]
        dotted = [name for name in wanted or () if name not in schema.names and type_of(schema, name) is not None]
        names = (*schema.names, *dict.fromkeys((*dotted, *islice(inner, SHOWN_COLUMNS))))
        return cls(path, (*kept, *dotted), names, class_names(schema, (*kept, *dotted)))

    def empty(self) -> Table:
        """A table without rows."""
        return self.table({name: [] for name in self.kept}, range(0))

    def read(self, batch: arrow.RecordBatch | arrow.Table, numbers: range, where: str) -> Table:
        """The table of some rows; ``where`` is the file that they come from."""
        return self.table({name: arrow_values(batch, name, where, numbers) for name in self.kept}, numbers)

    def table(self, columns: dict[str, list[Any]], numbers: range) -> Table:
        """A table of these columns."""
        return Table(self.path, columns, numbers, "row", names=self.names, classes=self.classes)


def arrow_values(batch: arrow.RecordBatch | arrow.Table, name: str, where: str, numbers: range) -> list[Any]:
    """A column's values in Python. Raises DataError where it holds what it should not, or what Python cannot hold."""
    import pyarrow as arrow
    import pyarrow.compute as compute

    head, *inner = [name] if name in batch.schema.names else name.split(".")
    column = batch.column(batch.schema.names.index(head))
    try:
        column.validate(full=True)
        for part in inner:
            column = compute.struct_field(column, part)
        values: list[Any] = column.to_pylist()
    except (arrow.ArrowException, ValueError, OverflowError) as error:
        what = (
            f"column '{name}' ({column.type}) cannot be read, rows {numbers[0]} to {numbers[-1]}: {first_line(error)}"
        )
        raise DataError(what, where=where) from error
    return values


def type_of(schema: arrow.Schema, name: str) -> arrow.DataType | None:
    """The type of a column, or of what is inside of a struct; None where there is none."""
    import pyarrow as arrow

    if name in schema.names:
        return schema.field(name).type
    head, *inner = name.split(".")
    found = schema.field(head).type if head in schema.names else None
    for part in inner:
        at = found.get_field_index(part) if found is not None and arrow.types.is_struct(found) else -1
        found = None if found is None or at < 0 else found.field(at).type
    return found


def is_list(kind: arrow.DataType) -> bool:
    """Whether values are lists."""
    import pyarrow as arrow

    return any(
        is_kind(kind) for is_kind in (arrow.types.is_list, arrow.types.is_large_list, arrow.types.is_fixed_size_list)
    )


def inner_names(kind: arrow.DataType, before: str) -> Iterator[str]:
    """The dotted names of what is inside of a struct."""
    import pyarrow as arrow

    if arrow.types.is_struct(kind):
        for field in kind:
            yield f"{before}.{field.name}"
            yield from inner_names(field.type, f"{before}.{field.name}")


def class_names(schema: arrow.Schema, kept: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The class names of columns of whole numbers, as the library ``datasets`` leaves them in the schema's metadata."""
    import pyarrow as arrow

    found = {}
    for name in kept:
        with suppress(KeyError, TypeError, ValueError, RecursionError):  # metadata of another make
            feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            for part in [name] if name in feature else name.split("."):
                feature = feature[part]
            kind = type_of(schema, name)
            if kind is not None and is_list(kind):  # several labels a row
                feature, kind = feature["feature"], kind.value_type
            names = feature["names"] if feature["_type"] == "ClassLabel" else ()
            if arrow.types.is_integer(kind) and names and all(isinstance(n, str) for n in names):
                found[name] = tuple(names)
    return found


def first_line(error: Exception) -> str:
    """What a library says, without the stack that it may add."""
    return clipped(str(error).strip().split("\n")[0]) or type(error).__name__
