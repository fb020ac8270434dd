"""The arguments that experiments share."""

import inspect
from dataclasses import fields

import pytest

from lorakit.workflow.experiments.compare import CompareRequest, compare
from lorakit.workflow.experiments.request import Request
from lorakit.workflow.experiments.sweep import plan_sweep, sweep
from lorakit.workflow.experiments.sweep_spec import SweepRequest


@pytest.mark.parametrize(
    ("function", "request_of", "first"),
    [(compare, CompareRequest, "arms"), (sweep, SweepRequest, "recipe"), (plan_sweep, SweepRequest, "recipe")],
)
def test_a_function_has_the_arguments_of_its_request(function, request_of, first):
    signature = inspect.signature(function)
    assert set(signature.parameters) == {field.name for field in fields(request_of)}
    assert set(signature.parameters) > {field.name for field in fields(Request)}
    positional = [name for name, p in signature.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [first, "overrides"]
    assert function.__name__ in ("compare", "sweep", "plan_sweep")
    with pytest.raises(TypeError, match="seed"):
        function("demo", seed=[0])


def test_every_argument_is_told():
    for function in (compare, sweep):
        for name in inspect.signature(function).parameters:
            assert f"        {name}: " in function.__doc__
