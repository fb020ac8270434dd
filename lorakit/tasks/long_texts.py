"""Texts that are longer than the model is to read: cut at their end, cut in their middle, or read in windows.

truncate     the beginning
head_tail    the beginning and the end: a quarter and three quarters of what may be kept, which was best for documents
             (Sun et al. 2019, How to Fine-Tune BERT for Text Classification, section 5.3.1: 128 and 382 tokens)
windows      all of it: pieces of full length that overlap by a quarter, each between the tokens that stand around every text,
             whose logits are pooled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.errors import DataError
from lorakit.tasks.token_ids import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRUNCATE, HEAD_TAIL, WINDOWS = "truncate", "head_tail", "windows"
HEAD, OVERLAP = 0.25, 0.25
MOST_WINDOWS = 32  # of one text; what is behind them is not read


@dataclass(frozen=True)
class Cut:
    """How much of a text is read. length: tokens, those around it included; long: what is done with longer ones."""

    length: int
    long: str = TRUNCATE


@dataclass(frozen=True)
class Frame:
    """How many tokens a tokenizer puts before every text, and behind it."""

    before: int
    behind: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """That of a tokenizer."""
        bare, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
        before = next(place for place in range(len(whole) + 1) if whole[place : place + len(bare)] == bare)
        return cls(before, len(whole) - before - len(bare))


def places(number: int, cut: Cut, frame: Frame) -> list[list[range]]:
    """The places, of a text's ``number`` tokens, that each piece keeps: ranges to put one after the other.

    Example:
        >>> places(10, Cut(6, "windows"), Frame(1, 1))       # 8 tokens between two around them; windows of 4
        [[range(0, 5), range(9, 10)], [range(0, 1), range(4, 8), range(9, 10)], [range(0, 1), range(5, 10)]]
    """
    if number <= cut.length:
        return [[range(number)]]
    room = cut.length - frame.before - frame.behind
    first, last = frame.before, number - frame.behind
    around = range(first), range(last, number)
    if cut.long == HEAD_TAIL:
        head = max(int(HEAD * room), 1) if room > 1 else room
        return [joined([around[0], range(first, first + head), range(last - (room - head), last), around[1]])]
    step = max(room - int(OVERLAP * room), 1)
    starts = [*range(first, last - room, step), last - room][:MOST_WINDOWS]
    return [joined([around[0], range(start, start + room), around[1]]) for start in starts]


def joined(parts: Sequence[range]) -> list[range]:
    """The same places in as few ranges as can be."""
    found: list[range] = []
    for part in filter(len, parts):
        if found and found[-1].stop == part.start:
            found[-1] = range(found[-1].start, part.stop)
        else:
            found.append(part)
    return found


def pieces(made: Ids, cut: Cut, frame: Frame) -> tuple[Ids, list[int], int]:
    """What a tokenizer made of whole texts, cut: input_ids and maybe token_type_ids of all pieces, the number of pieces of each
    text, and how many texts lost tokens."""
    names = [name for name in ("input_ids", "token_type_ids") if name in made]
    found: Ids = {name: [] for name in names}
    counts, lost = [], 0
    for row, tokens in enumerate(made["input_ids"]):
        kept = places(len(tokens), cut, frame)
        counts.append(len(kept))
        if len(tokens) > cut.length:
            lost += len({place for piece in kept for part in piece for place in part}) < len(tokens)
        for name in names:
            values = made[name][row]
            found[name] += [[value for part in piece for value in values[part.start : part.stop]] for piece in kept]
    return found, counts, lost


def check_single(long: str, pair: bool) -> None:
    """Raise DataError about pairs, of which neither text has a middle or windows of its own."""
    if pair and long != TRUNCATE:
        raise DataError(
            f"'{long}' is for single texts, and this task has pairs",
            key="task.long",
            valid=TRUNCATE,
            hint="task.long=truncate",
        )
