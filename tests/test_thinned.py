"""What the default run leaves out, it has met elsewhere."""

from support.thinned import crossed, thinned


def in_the_default_run(parameters):
    return [parameter.values for parameter in parameters if not parameter.marks]


def test_each_row_meets_one_column_and_over_all_turns_every_one():
    rows, columns = range(6), "abcd"
    seen = [in_the_default_run(crossed(rows, columns, turn=turn)) for turn in range(4)]
    for pairs in seen:
        assert [row for row, _ in pairs] == [*rows]
        assert {column for _, column in pairs} == {*columns}
    assert {pair for pairs in seen for pair in pairs} == {(row, column) for row in rows for column in columns}
    assert len(crossed(rows, columns, turn=1)) == 24
    few = crossed(rows, columns, turn=1, most=2)
    assert in_the_default_run(few) == in_the_default_run(crossed(rows, columns, turn=1))
    assert [row for row, _ in in_the_default_run(crossed(rows, columns, turn=1, every=3))] == [2, 5]
    assert [sum(row == parameter.values[0] for parameter in few) for row in rows] == [2] * 6


def test_of_some_in_a_row_the_first_is_met():
    assert in_the_default_run(thinned("abcde", 2)) == [("a",), ("c",), ("e",)]
    assert len(thinned("abcde", 2)) == 5
