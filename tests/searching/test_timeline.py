"""A tick's record."""

from __future__ import annotations

import json
from dataclasses import fields

from lorakit.searching.timeline import Tick, churn


def test_churn_is_the_share_of_those_on_before_that_went_off() -> None:
    assert churn(["a", "b", "c", "d"], ["b", "x", "y"]) == 3 / 4
    assert churn(["a"], ["a", "b"]) == 0
    assert churn(["a", "b"], []) == 1
    assert churn([], ["a"]) == 0


def test_a_record_is_json_with_every_field() -> None:
    tick = Tick(3, 40, 0.5, "snip", {"a": 1.5, "b": 0.0}, ["a"], {"a": 4, "b": 0}, 1.5, None, 0.25, 100, 120, 0.01)
    record = json.loads(json.dumps(tick.to_dict(), allow_nan=False))
    assert [*record, "measured"] == [field.name for field in fields(Tick)]  # which is left out where there is nothing
    assert Tick(**record) == tick
