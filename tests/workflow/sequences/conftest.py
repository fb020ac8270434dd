"""Small tasks whose sequences are learnt in a second."""

import pytest
from support.runs import Bench
from support.sequences import Sequences


@pytest.fixture(scope="session")
def sequences(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Makes recipes of sequences, and learns them."""
    return Sequences(bench, tmp_path_factory.mktemp("sequences"))
