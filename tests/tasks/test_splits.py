import tracemalloc

from lorakit.tasks.labels import LabelMap
from lorakit.tasks.rows import Columns, gather
from lorakit.tasks.splits import build_split
from lorakit.tasks.table import Table


def test_a_split_takes_no_copy_of_its_texts():
    columns = Columns(("text",), "label")
    table = Table("a.csv", {"text": ["x" * 10_000] * 500, "label": ["no", "yes"] * 250}, range(2, 502))
    rows = gather([table], columns)
    labels = LabelMap.found_in(rows, "label")
    build_split(rows, columns, labels)  # what is imported the first time does not count
    tracemalloc.start()
    split = build_split(rows, columns, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.texts.nbytes > 5_000_000
    assert peak < 500_000
    places = [part.column("text").chunk(0).buffers()[2].address for part in (split.data, rows.texts)]
    assert places[0] == places[1]
