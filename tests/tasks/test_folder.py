"""GLUE from local folders: real parquet, and each classic TSV layout from rows written by hand."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lorakit.errors import DataError
from lorakit.recipe.schema import TaskSection
from lorakit.tasks.sources import load_task
from lorakit.tasks.task import tasks

# Rows as the classic download has them: folder -> file -> lines.
CLASSIC = {
    "CoLA": {
        "train": ["gj04\t1\t\tThey drank.", "gj04\t0\t*\tThey drank the."],
        "dev": ["gj04\t1\t\tShe ran."],
        "test": ["index\tsentence", "0\tBill ate."],
    },
    "SST-2": {"train": ["sentence\tlabel", 'a "fine film \t1', "dull \t0"], "dev": ["sentence\tlabel", "good\t1"]},
    "MRPC": {
        "train": [
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '1\t7\t8\tHe "said .\tHe spoke .',
            "0\t9\t5\tA .\tB .",
        ],
        "dev": ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t1\t2\tC .\tD ."],
        "test": ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t3\t4\tE .\tF ."],
    },
    "QQP": {
        "train": [
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "5\t1\t2\tHow?\tWhy?\t0",
            "6\t3\t4\tcut in",
            "two?\tSo?\t1",
            "7\t5\t6\tWho?\tWho is it?\t1",
        ],
        "dev": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "9\t1\t2\tWhat?\t\t1"],
        "test": ["id\tquestion1\tquestion2", "0\tX?\tY?"],
    },
    "STS-B": {
        "train": [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000",
            "1\tmain\tMSRvid\t2012\t4\tnone\tnone\tA man.\tA flute.\t0.800",
        ],
        "dev": [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA hat.\tA hard hat.\t3.750",
        ],
    },
    "MNLI": {
        "train": [
            "index\tpromptID\tpairID\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\t1\t1n\t(x)\t(y)\tIt rains.\tWater falls.\tneutral\tentailment",
            "1\t2\t2n\t(x)\t(y)\tSun.\tRain.\tcontradiction\tcontradiction",
        ],
        "dev_matched": ["sentence1\tsentence2\tgold_label", "a\tb\tneutral"],
        "dev_mismatched": ["sentence1\tsentence2\tgold_label", "c\td\tcontradiction"],
        "test_matched": ["index\tsentence1\tsentence2", "0\te\tf"],
    },
    "QNLI": {
        "train": ["index\tquestion\tsentence\tlabel", "0\tWho?\tHe.\tentailment", "1\tWhen?\tIt.\tnot_entailment"],
        "dev": ["index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tnot_entailment"],
    },
    "WNLI": {
        "train": ["index\tsentence1\tsentence2\tlabel", "0\tI saw it.\tIt is red.\t1", "1\tHe ran.\tShe ran.\t0"],
        "dev": ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t0"],
    },
}
# The first training row and the last one's label, as ids in nyu-mll/glue's order.
EXPECTED = {
    "CoLA": (("They drank.",), 1, 0),
    "SST-2": (('a "fine film ',), 1, 0),
    "MRPC": (('He "said .', "He spoke ."), 1, 0),
    "QQP": (("How?", "Why?"), 0, 1),
    "STS-B": (("A plane.", "An air plane."), 5.0, pytest.approx(0.8)),
    "MNLI": (("It rains.", "Water falls."), 0, 2),
    "QNLI": (("Who?", "He."), 0, 1),
    "WNLI": (("I saw it.", "It is red."), 1, 0),
}


def write_classic(root, folder):
    (root / folder).mkdir()
    for name, lines in CLASSIC[folder].items():
        (root / folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(name, folder):
    return load_task(TaskSection(name=name, data=str(folder)), seed=0)


@pytest.mark.parametrize("folder", CLASSIC)
@pytest.mark.parametrize("inside", [False, True])
def test_each_classic_layout(tmp_path, folder, inside):
    write_classic(tmp_path, folder)
    name = folder.lower().replace("-", "")
    data = load(name, tmp_path / folder if inside else tmp_path)
    texts, first, last = EXPECTED[folder]
    train = data.splits["train"]
    assert train[0] == dict(zip(("text", "text_pair"), texts, strict=False)) | {"label": first, "idx": 0}
    assert train[-1]["label"] == last
    assert set(data.splits) >= {"train", *data.task.validation}
    for split in set(data.task.test) & set(data.splits):
        assert "label" not in data.splits[split].column_names
        assert data.splits[split]["idx"][:] == [0]


def test_cut_rows_of_qqp_are_left_out_and_told(tmp_path):
    write_classic(tmp_path, "QQP")
    data = load("qqp", tmp_path)
    assert data.splits["train"]["idx"][:] == [0, 3]
    assert f"2 broken lines of train.tsv left out, the first at {tmp_path / 'QQP' / 'train.tsv'}:3" in data.origin
    assert data.splits["validation"]["text_pair"][:] == [""]


def test_a_broken_row_of_another_task_is_told_with_its_line(tmp_path):
    write_classic(tmp_path, "WNLI")
    path = tmp_path / "WNLI" / "dev.tsv"
    path.write_text(path.read_text() + "1\tonly\n")
    with pytest.raises(DataError, match=r"dev\.tsv:3: 2 fields where the header has 4"):
        load("wnli", tmp_path)


def test_a_label_outside_the_task_is_told_with_its_line(tmp_path):
    write_classic(tmp_path, "QNLI")
    path = tmp_path / "QNLI" / "dev.tsv"
    path.write_text(path.read_text() + "1\tq\ts\tperhaps\n")
    with pytest.raises(DataError, match=r"dev\.tsv:3: label 'perhaps' is not one of the 2 labels"):
        load("qnli", tmp_path)


def test_a_header_of_another_task_is_told(tmp_path):
    write_classic(tmp_path, "QNLI")
    (tmp_path / "QNLI").rename(tmp_path / "RTE")
    with pytest.raises(DataError, match="no column 'sentence1' in the header of a GLUE file of rte"):
        load("rte", tmp_path)


def test_mrpc_from_the_original_files(tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    (tmp_path / "msr_paraphrase_train.txt").write_text(header + "1\t7\t8\tA\tB\n0\t9\t5\tC\tD\n1\t2\t3\tE\tF\n")
    (tmp_path / "msr_paraphrase_test.txt").write_text(header + "0\t1\t1\tG\tH\n")
    with pytest.raises(DataError, match=r"dev_ids\.tsv beside it"):
        load("mrpc", tmp_path)
    (tmp_path / "dev_ids.tsv").write_text("9\t5\n")
    splits = load("mrpc", tmp_path).splits
    assert splits["train"]["idx"][:] == [0, 2]
    assert splits["validation"].to_list() == [{"text": "C", "text_pair": "D", "label": 0, "idx": 1}]
    assert splits["test"].to_list() == [{"text": "G", "text_pair": "H", "label": 0, "idx": 0}]


def test_a_hub_snapshot_with_shards_and_both_mnli_sets(tmp_path):
    (tmp_path / "mnli").mkdir()
    for split, label in (("train", 0), ("validation_matched", 1), ("validation_mismatched", 2), ("test_matched", -1)):
        for shard in (0, 1):
            rows = {"premise": [f"p{shard}"], "hypothesis": ["h"], "label": [label], "idx": [shard]}
            pq.write_table(pa.table(rows), tmp_path / "mnli" / f"{split}-0000{shard}-of-00002.parquet")
    splits = load("mnli", tmp_path).splits
    assert set(splits) == {"train", "validation_matched", "validation_mismatched", "test_matched"}
    assert splits["validation_mismatched"].to_list() == [
        {"text": f"p{shard}", "text_pair": "h", "label": 2, "idx": shard} for shard in (0, 1)
    ]
    assert splits["test_matched"].column_names == ["text", "text_pair", "idx"]


# Row counts of the official splits.
@pytest.mark.parametrize(
    ("name", "train", "validation"),
    [("mrpc", 3668, 408), ("rte", 2490, 277), ("sst2", 67349, 872), ("stsb", 5749, 1500)],
)
def test_real_parquet(glue_dir, name, train, validation):
    for folder in (glue_dir, glue_dir / name):
        splits = load(name, folder).splits
        assert {split: len(rows) for split, rows in splits.items()} == {"train": train, "validation": validation}
        pair = ["text_pair"] if tasks.get(name).pair else []
        assert splits["train"].column_names == ["text", *pair, "label", "idx"]


def test_real_tsv_equals_real_parquet(glue_dir):
    classic = glue_dir.with_name("glue_tsv")
    if not classic.is_dir():
        pytest.skip("there is no glue_tsv beside LORAKIT_GLUE_DIR")
    parquet, tsv = load("rte", glue_dir).splits, load("rte", classic).splits
    assert parquet.keys() == tsv.keys()
    assert all(parquet[split].to_dict() == tsv[split].to_dict() for split in parquet)


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(DataError, match="there is no folder") as caught:
        load("mrpc", tmp_path / "none")
    assert caught.value.problems[0].key == "task.data"
    with pytest.raises(DataError, match=r"has no files of the task mrpc\n.*mrpc/train.parquet or train.tsv"):
        load("mrpc", tmp_path)
    (tmp_path / "mrpc").mkdir()
    pq.write_table(
        pa.table({"sentence1": ["a"], "sentence2": ["b"], "label": [0]}), tmp_path / "mrpc" / "train.parquet"
    )
    with pytest.raises(DataError, match="no validation split"):
        load("mrpc", tmp_path)


def test_a_split_without_rows_is_told(tmp_path):
    for split in ("train", "validation"):
        rows = {"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}
        pq.write_table(pa.table(rows), tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="the train split of sst2 has no rows"):
        load("sst2", tmp_path)
