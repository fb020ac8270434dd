"""Texts to token ids. Those of a large split go to the cache chunk by chunk and are mapped from there, never held in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lorakit.tasks.cache import cached
from lorakit.tasks.long_texts import TRUNCATE, WINDOWS, Cut, Frame, check_single, pieces
from lorakit.tasks.plain_text import as_plain_text, role_tokens
from lorakit.tasks.token_ids import Ids, token_ids

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[int, int], None]
"""(rows done, rows in all): told after every chunk."""

CHUNK = 1000  # texts tokenised at a time
CHUNK_BYTES = 2**22  # of text tokenised at a time: before they are cut, tokens take a hundred times their letters
LARGE = 2**21  # bytes of text; tokenising less than that takes a second or two
VERSION = 3  # of this file's reading of texts; another version finds nothing in the cache


@dataclass
class Tokens:
    """Pieces end to end: lengths (pieces,), tokens (sum of lengths,), types likewise or None; counts (n,): how many pieces each row is,
    None where each is one; how many rows were cut, and in how many a token with a role was written."""

    lengths: NDArray[np.int64]
    tokens: NDArray[np.int32]
    types: NDArray[np.int8] | None
    truncated: int
    special: int
    counts: NDArray[np.int64] | None = None


def tokenise(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, cut: Cut, progress: Progress | None = None
) -> Tokens:
    """The tokens of a split's texts, as ``cut`` says."""
    chunks = partial(tokenised, dataset, tokenizer, cut, progress)
    if text_bytes(dataset) < LARGE:
        return joined(list(chunks()))
    with cached(tokens_key(dataset, tokenizer, cut), partial(write, chunks)) as folder:
        return read(folder)


def text_bytes(dataset: Dataset) -> int:
    """About how many bytes a split's own rows take."""
    return int(dataset.data.nbytes * len(dataset) / max(dataset.data.num_rows, 1))


def tokenised(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, cut: Cut, progress: Progress | None
) -> Iterator[Tokens]:
    """The split's tokens, a chunk of rows at a time."""
    done = 0
    for texts in text_chunks(dataset):
        yield tokens_of(texts, tokenizer, cut)
        done += len(texts[0])
        if progress:
            progress(done, len(dataset))


def tokens_of(written: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, cut: Cut) -> Tokens:
    """The tokens of one column of texts, or of two that make pairs, as ``cut`` says."""
    roles = role_tokens(tokenizer)
    texts = [as_plain_text(column, roles) for column in written]
    special = sum(map(ne, zip(*texts, strict=True), zip(*written, strict=True)))
    if cut.long == TRUNCATE:
        return tokens_from(*token_ids(tokenizer, texts, cut.length), special)
    check_single(cut.long, len(texts) == 2)
    whole, _ = token_ids(tokenizer, texts)
    found, counts, lost = pieces(whole, cut, Frame.of(tokenizer))
    return tokens_from(found, lost, special, np.asarray(counts, np.int64) if cut.long == WINDOWS else None)


def tokens_from(made: Ids, truncated: int, special: int, counts: NDArray[np.int64] | None = None) -> Tokens:
    """The Tokens of rows of ids."""
    return Tokens(
        np.fromiter(map(len, made["input_ids"]), np.int64),
        flat(made["input_ids"], np.int32),
        flat(made["token_type_ids"], np.int8) if "token_type_ids" in made else None,
        truncated,
        special,
        counts,
    )


def text_chunks(dataset: Dataset) -> Iterator[tuple[list[str], ...]]:
    """The texts, or both texts, of a chunk of rows at a time."""
    names = text_columns(dataset)
    texts = dataset.select_columns(names)
    size = text_bytes(texts) // max(len(texts), 1) + 1
    rows_at_once = max(min(CHUNK, CHUNK_BYTES // size), 1)
    for start in range(0, len(texts), rows_at_once):
        rows = texts[start : start + rows_at_once]
        yield tuple(rows[name] for name in names)


def text_columns(dataset: Dataset) -> list[str]:
    """The split's one or two columns of text."""
    return [name for name in ("text", "text_pair") if name in dataset.column_names]


def flat(rows: list[list[int]], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """Rows of different lengths, end to end."""
    return np.fromiter(chain.from_iterable(rows), dtype, sum(map(len, rows)))


def joined(chunks: list[Tokens]) -> Tokens:
    """All chunks as one, in memory."""
    types = [chunk.types for chunk in chunks if chunk.types is not None]
    counts = [chunk.counts for chunk in chunks if chunk.counts is not None]
    return Tokens(
        np.concatenate([chunk.lengths for chunk in chunks]) if chunks else np.empty(0, np.int64),
        np.concatenate([chunk.tokens for chunk in chunks]) if chunks else np.empty(0, np.int32),
        np.concatenate(types) if types else None,
        sum(chunk.truncated for chunk in chunks),
        sum(chunk.special for chunk in chunks),
        np.concatenate(counts) if counts else None,
    )


def write(chunks: Callable[[], Iterator[Tokens]], folder: Path) -> None:
    """Write all chunks into ``folder``, one after the other."""
    truncated = special = 0
    with (folder / "lengths").open("wb") as lengths, (folder / "tokens").open("wb") as tokens:
        for chunk in chunks():
            lengths.write(chunk.lengths.tobytes())
            tokens.write(chunk.tokens.tobytes())
            for name, values in (("types", chunk.types), ("counts", chunk.counts)):
                if values is not None:
                    with (folder / name).open("ab") as file:
                        file.write(values.tobytes())
            truncated += chunk.truncated
            special += chunk.special
    (folder / "counts.json").write_text(json.dumps([truncated, special]), encoding="utf-8")


def read(folder: Path) -> Tokens:
    """What ``write`` wrote, tokens and types mapped from their files."""
    types, counts = folder / "types", folder / "counts"
    truncated, special = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    return Tokens(
        np.fromfile(folder / "lengths", np.int64),
        mapped(folder / "tokens", np.int32),
        mapped(types, np.int8) if types.exists() else None,
        truncated,
        special,
        np.fromfile(counts, np.int64) if counts.exists() else None,
    )


def mapped(path: Path, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """A file of numbers as a read-only array that stays on disk."""
    if not path.stat().st_size:  # nothing cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)


def tokens_key(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, cut: Cut) -> str:
    """The cache's key: a hash of the texts, the tokenizer and all that decides; "" for a tokenizer that cannot be hashed."""
    import tokenizers
    import transformers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    core = json.loads(backend.to_str())
    calls = ("truncation", "padding")  # what the last call left there
    settings = {
        "version": [VERSION, tokenizers.__version__, transformers.__version__],
        "tokenizer": [type(tokenizer).__qualname__, {name: core[name] for name in sorted(core) if name not in calls}],
        "inputs": [tokenizer.model_input_names, tokenizer.truncation_side, tokenizer.pad_token_type_id],
        "roles": role_tokens(tokenizer),
        "columns": text_columns(dataset),
        "cut": [cut.length, cut.long],
    }
    digest = hashlib.sha256(json.dumps(settings).encode())
    chosen = row_places(dataset)
    digest.update(b"all" if chosen is None else chosen.tobytes())
    for name in text_columns(dataset):
        digest.update(text_digest(dataset.data.column(name)))
    return f"tokens-{digest.hexdigest()}"


def row_places(dataset: Dataset) -> NDArray[np.int64] | None:
    """Where the split's rows are in its table (n,), None for all in order."""
    # There is no public way that does not take a row at a time.
    places = dataset._indices
    return None if places is None else places.column(0).to_numpy().astype(np.int64)


def text_digest(column: ChunkedArray) -> bytes:
    """A hash of a column's texts, however they are cut into chunks."""
    lengths, texts = hashlib.sha256(), hashlib.sha256()
    for chunk in filter(len, column.cast("large_string").chunks):
        _, offsets, content = chunk.buffers()
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        lengths.update(np.diff(ends).tobytes())
        texts.update(memoryview(content)[ends[0] : ends[-1]] if content else b"")
    return lengths.digest() + texts.digest()
