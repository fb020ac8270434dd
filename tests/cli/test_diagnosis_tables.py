"""What `lorakit eval` prints of several labels a row, and of numbers."""

from __future__ import annotations

from lorakit.tasks.diagnosis import Slice
from lorakit.tasks.label_diagnosis import LabelDiagnosis, LabelScores, LabelsError
from lorakit.tasks.number_diagnosis import NumberDiagnosis, NumberError

LABELS = LabelDiagnosis(
    labels=[
        LabelScores("toxic", 0.5, 0.25, 0.3333, 8, 0.75, 0.31, 0.6),
        LabelScores("odd", 0, 0, 0, 0, None, None, None),
    ],
    roc_auc=0.875,
    average_precision=0.75,
    errors=[LabelsError(17, "what a fool", ["toxic"], [], "toxic", 0.05)],
    by_length=[Slice("short, 3 to 5 tokens", 4, 2, {"micro_f1": 0.5})],
)
NUMBERS = NumberDiagnosis(
    mae=0.5, bias=-0.125, r2=0.75, errors=[NumberError(3, "a dull film", 4.5, 1.25)],
    by_length=[Slice("short, 3 to 5 tokens", 4, None, {"pearson": 0.5})],
)  # fmt: skip


def test_several_labels_have_a_line_each_and_what_was_missed(cli, here, workflow):
    workflow.changes = {"diagnosis": LABELS}
    lines = [" ".join(line.split()) for line in cli("eval", "mrpc").out.splitlines()]
    assert "toxic 0.5000 0.2500 0.3333 0.7500 8 0.3100 0.6000" in lines
    assert "odd 0.0000 0.0000 0.0000 0" in lines
    assert "toxic 0.050 toxic 17 what a fool" in lines
    assert "average precision 0.7500 (mean over labels)" in lines
    assert "short, 3 to 5 tokens 4 2 0.5000" in lines


def test_numbers_have_their_largest_errors(cli, here, workflow):
    workflow.changes = {"diagnosis": NUMBERS}
    lines = [" ".join(line.split()) for line in cli("eval", "mrpc").out.splitlines()]
    assert "mean absolute error 0.5000 (mean error -0.1250)" in lines
    assert "R2 0.7500" in lines
    assert "-3.25 1.25 4.5 3 a dull film" in lines
    assert "short, 3 to 5 tokens 4 0.5000" in lines
