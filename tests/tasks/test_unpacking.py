"""Packed files and files of other codings are read as what they hold; damaged ones are told."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from lorakit.errors import DataError
from lorakit.tasks import lines
from lorakit.tasks.lines import read_lines
from lorakit.tasks.readers import read_csv
from lorakit.tasks.table import whole
from lorakit.tasks.unpacking import BLOCK, kind_of

CSV = "text,label\n" + "".join(f"text {i} ü,{i % 2}\n" for i in range(9000))
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def write(path, content):
    path.write_bytes(content)
    return path


def archive(path, members, **more):
    with zipfile.ZipFile(path, "w", **more) as file:
        for name in members:
            file.writestr(name, CSV)
    return path


def problem_of(path):
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    return caught.value.problems[0]


@pytest.mark.parametrize("packing", PACK)
def test_what_is_packed_is_unpacked(tmp_path, packing):
    path = write(tmp_path / f"a.csv{packing}", PACK[packing](CSV.encode()))
    assert "".join(line for _, line in read_lines(path)) == CSV
    assert kind_of(path) == ".csv"


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("damage", ["cut", "changed", "none at all"])
def test_what_is_damaged_is_told(tmp_path, packing, damage):
    content = PACK[packing](CSV.encode())
    content = {"cut": content[: len(content) // 2], "changed": content[:-12] + b"#" * 12}.get(damage, CSV.encode())
    problem = problem_of(write(tmp_path / f"a.csv{packing}", content))
    assert f"the file is damaged, or no {packing} at all: " in problem.what
    assert problem.where == str(tmp_path / f"a.csv{packing}")


@pytest.mark.parametrize(
    ("name", "inside", "kind"),
    [
        ("a.zip", "b.csv", ".csv"),
        ("a.zip", "folder/b.JSONL", ".jsonl"),
        ("a.csv.zip", "b", ".csv"),
        ("a.CSV.ZIP", "b.tsv", ".tsv"),
        ("a.zip", "b", ""),
        ("a.csv.GZ", "", ".csv"),
        ("a.gz", "", ""),
        ("a.csv", "", ".csv"),
    ],
)
def test_the_kind_is_that_of_what_is_packed(tmp_path, name, inside, kind):
    path = archive(tmp_path / name, [inside]) if inside else tmp_path / name
    assert kind_of(path) == kind


def test_an_archive_of_one_file_is_read_whatever_macos_puts_beside_it(tmp_path):
    path = archive(
        tmp_path / "a.zip", ["data/", "data/b.csv", "__MACOSX/data/._b.csv", ".DS_Store"], compression=zipfile.ZIP_LZMA
    )
    assert "".join(line for _, line in read_lines(path)) == CSV


def test_an_archive_of_many_files_or_none_is_refused_with_their_names(tmp_path):
    problem = problem_of(archive(tmp_path / "a.zip", [f"{i}.csv" for i in range(7)]))
    assert problem.what == "the archive holds 7 files: 0.csv, 1.csv, 2.csv, 3.csv, 4.csv and 2 more"
    assert problem.valid == "one file in a zip"
    assert problem_of(archive(tmp_path / "b.zip", ["empty/"])).what == "the archive holds no file"


@pytest.mark.parametrize(
    ("places", "value", "says"),
    [((6, 8), 1, "the archive needs a password"), ((8, 10), 97, "the archive cannot be unpacked: ")],
    ids=["password", "packed in a rare way"],
)
def test_an_archive_that_cannot_be_unpacked_is_refused(tmp_path, places, value, says):
    content = bytearray(archive(tmp_path / "a.zip", ["b.csv"]).read_bytes())
    for mark, place in zip((b"PK\x03\x04", b"PK\x01\x02"), places, strict=True):  # both headers say it
        content[content.index(mark) + place] = value
    assert problem_of(write(tmp_path / "a.zip", bytes(content))).what.startswith(says)


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be", "utf-32-le"])
def test_a_byte_order_mark_says_how_a_file_is_written(tmp_path, coding):
    text = "\ufeff" * coding.endswith("e") + CSV + "\U0001f600 \u0a0a\u2028"
    for name, content in (("a.csv", text.encode(coding)), ("a.csv.gz", gzip.compress(text.encode(coding)))):
        assert "".join(line for _, line in read_lines(write(tmp_path / name, content))) == text.lstrip("\ufeff")


@pytest.mark.parametrize("before", [3, BLOCK])
@pytest.mark.parametrize(
    ("broken", "byte"), [(b"\x00\xd8\x61\x00", 0x00), (b"\x61", 0x61)], ids=["half a pair", "half a letter"]
)
def test_broken_utf16_is_told_with_its_line(tmp_path, before, broken, byte):
    path = write(tmp_path / "a.csv", ("text\n" * before).encode("utf-16") + broken)
    problem = problem_of(path)
    assert problem.what == f"not UTF-16 text (byte 0x{byte:02x})"
    assert problem.where == f"{path}:{before + 1}"


@pytest.mark.parametrize(
    ("content", "byte", "hint"),
    [
        ("text\ncafé\n".encode("cp1252"), 0xE9, "if that byte is to be 'é', iconv -f cp1252 -t utf-8 does"),
        ("text\n5 €\n".encode("cp1252"), 0x80, "if that byte is to be '€', iconv -f cp1252 -t utf-8 does"),
        ("text\ncafé\n".encode("utf-16-le"), 0x00, "iconv -f utf-16le -t utf-8"),
        ("text\ncafé\n".encode("utf-16-be"), 0x00, "iconv -f utf-16be -t utf-8"),
        (b"text\n\x01\xff\n", 0xFF, "whether it is a text file at all"),
    ],
)
def test_other_codings_are_refused_with_what_they_may_be(tmp_path, content, byte, hint):
    path = write(tmp_path / "a.csv", content)
    problem = problem_of(path)
    assert problem.what == f"not UTF-8 text (byte 0x{byte:02x})"
    assert problem.where == f"{path}:{1 if byte == 0 else 2}"
    assert hint in problem.hint


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 2**20)
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        for _ in range(64):
            file.write(b"a" * 2**20)
    path = write(tmp_path / "a.csv.gz", packed.getvalue())
    problem = problem_of(path)
    assert (problem.what, problem.where) == ("a line is longer than 1 MiB", f"{path}:1")


def test_a_field_with_line_breaks_in_a_packed_file(tmp_path):
    path = write(tmp_path / "a.csv.gz", gzip.compress(b'text,label\r\n"one\r\n""two""",1\r\nthree,0\r\n'))
    table = whole(read_csv(path))
    assert table.columns == {"text": ['one\r\n"two"', "three"], "label": ["1", "0"]}
    assert table.numbers == [2, 4]
