"""Which ways of spreading a training over devices there are."""

from unittest import mock

import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType
from support.runs import Bench

from lorakit.errors import UsageError
from lorakit.workflow.accelerator import DATA_PARALLEL, make_accelerator


@pytest.mark.parametrize("kind", [kind for kind in DistributedType if kind.value not in ("NO", *DATA_PARALLEL)])
def test_what_does_not_keep_the_model_whole_is_refused(bench: Bench, kind: DistributedType):
    recipe = bench.load().recipe
    with (
        mock.patch.object(Accelerator, "distributed_type", kind),
        pytest.raises(UsageError, match=f"training under {kind.value} is not possible") as caught,
    ):
        make_accelerator(recipe)
    assert "accelerate launch --multi_gpu" in caught.value.problems[0].hint


def test_data_parallel_kinds_are_those_of_accelerate():
    assert set(DATA_PARALLEL) <= {kind.value for kind in DistributedType}
