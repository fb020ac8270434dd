import re

from support.pages import loads_nothing, read_page

from lorakit.reporting.figures import as_svg, curves
from lorakit.reporting.page import Numbers, Page, Picture, render
from lorakit.reporting.page_style import STYLE
from lorakit.reporting.summary import Passage

NASTY = "<b>x</b> \"'&amp; <script>alert(1)</script>"


def page(text: str = "plain") -> str:
    metrics = [{"step": step, "epoch": 0.1, "loss": 1 / (step + 1), "lr": 1.0} for step in range(3)]
    pictures = [
        Picture(text, as_svg(curves(metrics, [1]), f"figure{number}"), alt=text, caption=text) for number in range(2)
    ]
    table = Numbers(text, ["", text], [[text, text], ["last", "12 %"]], note=text)
    return render(
        Page(text, text, [(text, text)], [Passage(text, [text])], [*pictures, table], [(text, text)], notice=text)
    )


def test_the_page_is_well_formed_and_loads_nothing():
    read = read_page(page())
    assert loads_nothing(read)
    assert read.tags["svg"] == 2
    assert read.tags["h1"] == read.tags["main"] == read.tags["title"] == 1
    assert {"12 %", "last"} <= set(read.text)
    assert """<meta http-equiv="Content-Security-Policy" content="default-src 'none';""" in page()
    assert not re.search(r"url\((?!#)|@import", page())


def test_every_text_is_escaped():
    read = read_page(page(NASTY))
    assert loads_nothing(read)
    assert "b" not in read.tags
    assert (
        read.text.count(NASTY) >= 12
    )  # title, head, subtitle, notice, fact twice, passage twice, table, fold twice, captions
    assert NASTY in read.labels


def test_figures_say_what_they_show_and_keep_their_ids_apart():
    read = read_page(page("what it shows"))
    assert read.labels.count("what it shows") == 2
    assert len(read.ids) == len(set(read.ids))
    known = set(read.ids)
    assert {address[1:] for address in read.loads if address.startswith("#")} <= known


def test_colours_come_in_light_and_in_dark():
    used = set(re.findall(r"var\(--(\w+)\)", page()))
    light, dark = STYLE.split("prefers-color-scheme: dark")
    for name in used:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    assert {"ink", "rule", "line0"} <= used


def test_the_same_figure_gives_the_same_text():
    assert page() == page()
