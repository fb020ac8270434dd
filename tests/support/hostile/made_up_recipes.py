"""Recipes and overrides as nobody should write them: wrong types and shapes, odd YAML, odd bytes."""

from __future__ import annotations

from hypothesis import strategies as st

from lorakit.recipe.keys import Key, recipe_keys, section_keys

KEYS = list(recipe_keys().values())
ODD = (
    *("", "~", "null", "[]", "{}", "[[q]]", "{a: {b: c}}", "- q", "yes", "off", "'off'", "0", "-1", "1", "007", "0x10", "1_0"),
    *("1e3", "1e999", ".nan", "-.inf", "1.5", "9" * 30, "9" * 5000, "5 e-4", "12:30:00", "2024-01-01", "0,1", "6%", "=", "<<"),
    *("!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!int 8", "!local x", "!!binary aGk=", "!!set {a}"),
    *("${run.seed}", "${oc.env:HOME}", "${oc.env:NOWHERE,1}", "\\${run.seed}", "???", "${", "$" * 50, "{oc.env: HOME}"),
    *("&a [*a]", "*nothing", "&a q", "{<<: {a: 1}}", "{a: 1, a: 2}", "{? [q] : 1}", "{[q]: 1}", "[q, q]", "[q, k", "{a: 1", "q]"),
    *('"\\0"', '"\\e[2J"', '"\\uD800"', '"a\\nb"', '"\\x85\\L\\P"', '"\\uFEFF"', "'it''s'", '"open', "|\n    text", ">-\n    folded"),
    *("\tq", "q # c", "q: v: o", "@q", "%q", "`q`", "été", "模型", "\U0001f600", "\u202eq", "q" * 3000, "(" * 300, "'(a+)+$'"),
    *("'a{99999999999999999999}'", f"'{'(' * 3000}{')' * 3000}'", "'('", "'[[:x:]]'", "../../x", "/etc/passwd", "~", "x" * 300),
    *("A+B", "B", "lora", "heterolora", "[q, v]", "[res1]", "{beta:0.9}", "{beta: 0.9}", "{beta: }", "{: 1}", "{'': 1}", "all"),
)  # fmt: skip


def right(key: Key) -> list[str]:
    """Values that this key may well have."""
    if key.choices:
        words = [*key.choices][:12]
        return [f"[{words[0]}]", "[]"] if key.shape == "list" else words
    if key.shape == "mapping":
        return ["{}", "{a: 1}", "{b: 'x=y'}"]
    if key.shape == "list":
        return ["[q, v]", "[all]", "q"]
    return {bool: ["true", "false"], int: ["1", "8", "64"], float: ["0.1", "0.5", "1"], str: ["x", "bundled:minilm"]}[
        key.kind
    ]


def value_of(key: Key) -> st.SearchStrategy[str]:
    """The text of a value: more often right than not."""
    anything = st.text(st.characters(codec="utf-8"), max_size=12)
    return st.one_of(st.sampled_from(right(key)), st.sampled_from(right(key)), st.sampled_from(ODD), anything)


@st.composite
def sections(draw: st.DrawFn) -> str:
    """A recipe that is right as a whole, with some keys of any value."""
    chosen = draw(st.lists(st.sampled_from(KEYS), max_size=5, unique_by=lambda key: key.path))
    written: dict[str, list[str]] = {"model": ["name: bundled:minilm"], "task": ["name: mrpc"]}
    for key in chosen:
        section = key.path.partition(".")[0]
        written.setdefault(section, []).append(f"{key.name}: {draw(value_of(key))}")
    head = draw(
        st.sampled_from(["", "", "", "extends: demo\n", "extends: ODD\n", "extends: recipe.yaml\n", "--- \n", "# c\n"])
    )
    head = head.replace("ODD", draw(st.sampled_from(ODD)) if "ODD" in head else "")
    return head + "".join(f"{name}:\n" + "".join(f"  {line}\n" for line in lines) for name, lines in written.items())


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """The bytes of a recipe after a few careless edits."""
    text = draw(sections()).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 6))
        put = draw(st.one_of(st.sampled_from(BYTES), st.binary(max_size=4)))
        text = text[:at] + put + text[at + cut :]
    ending = draw(st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]))
    start = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]))
    return start + text.replace(b"\n", ending)


BYTES = (
    *(b"", b" ", b"\n", b"\t", b":", b": ", b"- ", b"  ", b"#", b"&a ", b"*a", b"{", b"}", b"[", b"]", b"'", b'"', b"!!str "),
    *(b"\x00", b"\x1b", b"\xff", b"\xc3", b"\xed\xa0\x80", b"---\n", b"...\n", b"%YAML 9.9\n", b"? ", b"<<: ", b"|", b">", b"zzz: 1\n"),
)  # fmt: skip

WHOLE = (
    *("", "\n", "# nothing", "[]", "- model", "model", "42", "null", "{}", "{model: {}}", "? {}", "---\n---\n", "&a {x: *a}", "*a"),
    *("a: &a [x]\nb: [*a, *a]", "[" * 2000, "{" * 2000, "- " * 2000, "a: " * 40, "!!python/object:os.x {}", "%TAG ! x\n---\n", "\t"),
    *("model: {name: x}\nmodel: {name: y}", f"{'k' * 2000}: 1", f"? {'k' * 2000}\n: 1", "extends: [a]", "extends: ", "extends: {}"),
    *("adapter: [rank]", "adapter: 8", "adapter: *a", "adapter:\n rank: 8\n  alpha: 4", "adapter:\n\trank: 8", "adapter.rank: 8"),
)  # fmt: skip

texts = st.one_of(
    spoilt(),
    spoilt(),
    sections().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(WHOLE).map(str.encode),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)

names = st.one_of(
    st.sampled_from([key.path for key in KEYS]),
    st.sampled_from([key.path for key in KEYS]),
    st.sampled_from(["", "=", "a", "a.b.c.d", "extends", "adapter", "adapter.rnak", "adapter.", ".rank", *section_keys()]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)  # fmt: skip

overrides = st.lists(
    st.one_of(
        st.tuples(names, st.sampled_from(ODD)).map("=".join),
        st.sampled_from(KEYS).flatmap(lambda key: value_of(key).map(lambda value: f"{key.path}={value}")),
        st.text(st.characters(codec="utf-8"), max_size=12),
    ),
    max_size=3,
)
