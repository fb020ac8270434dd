"""What tests share is in tests/support and the conftests: no test imports another one."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_tests_import_from_support_alone():
    rooms = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"support"}
    elsewhere = re.compile(rf"^\s*(?:from|import) (?:{'|'.join(sorted(rooms))}|conftest|test_\w+)\b.*", re.MULTILINE)
    found = {str(path.relative_to(TESTS)): elsewhere.findall(path.read_text("utf-8")) for path in TESTS.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
