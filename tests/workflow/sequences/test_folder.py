"""A sequence's folder: there whole or not at all, and gone on with over the rows that it was begun with."""

from __future__ import annotations

import os
from dataclasses import replace
from unittest import mock

import pytest

from lorakit.errors import DataError, UsageError
from lorakit.recipe.sequence import find_sequence, load_sequence
from lorakit.recipe.vocabulary import SEQUENCE_FILE
from lorakit.workflow.sequences import folder
from lorakit.workflow.sequences.folder import begin, begun, check_same_rows, unfinished
from lorakit.workflow.sequences.train_sequence import checked_data

TWO = ("mood", "size")


@pytest.fixture(scope="module")
def opened(sequences):
    sequence = load_sequence(sequences.recipe(tasks=TWO))
    return sequence, checked_data(sequence)


class Killed(BaseException):
    pass


def test_what_a_kill_leaves_is_no_folder_of_a_sequence(opened, tmp_path):
    sequence, data = opened
    home = tmp_path / "all"
    for moment in ("write_text", "write_json", "rename"):
        with mock.patch.object(folder, moment, side_effect=Killed), pytest.raises(Killed):
            begin(sequence, data, home)
        assert not home.exists()
    assert begin(sequence, data, home).sequence.names == [*TWO]
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_of_two_that_begin_at_once_one_has_the_folder(opened, tmp_path):
    sequence, data = opened
    home = tmp_path / "all"

    def overtaken(source, target):
        home.mkdir()
        (home / "theirs").touch()
        os.replace(source, target)

    with (
        mock.patch.object(folder, "rename", overtaken),
        pytest.raises(UsageError, match="another process has just begun"),
    ):
        begin(sequence, data, home)
    assert [path.name for path in tmp_path.rglob("*")] == ["all", "theirs"]


def test_rows_that_are_others_are_told_before_a_task_goes_on(opened, tmp_path):
    sequence, data = opened
    home = begin(sequence, data, tmp_path / "all")
    check_same_rows(home, data)
    splits = data[0].splits | {"train": data[0].splits["train"].select(range(20))}
    with pytest.raises(
        DataError, match=r"train\.csv has changed since the sequence .*all was begun: train has 20 rows now"
    ):
        check_same_rows(home, [replace(data[0], splits=splits), data[1]])


def test_a_persons_own_file_is_no_folder_to_go_on_in_by_its_name(opened, sequences, tmp_path):
    sequence, data = opened
    own = tmp_path / "sequence.yaml"
    own.write_text(sequences.recipe(tasks=TWO).read_text())
    mine = load_sequence(own, [f"run.folder={tmp_path}"])
    with pytest.raises(UsageError, match="no unfinished sequence sequence with seed 0"):
        begun(mine, None)
    home = begin(sequence, data, tmp_path / "all")
    assert begun(load_sequence(find_sequence(home.path)), None).path == home.path


def test_a_seed_is_not_one_that_begins_like_it(sequences, tmp_path):
    for name in ("all-1", "all-1-2", "all-12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SEQUENCE_FILE).touch()
    sequence = replace(load_sequence(sequences.recipe(tasks=TWO), ["run.seed=1"]), name="all", folder=tmp_path)
    assert {path.name for path in unfinished(sequence)} == {"all-1", "all-1-2"}
