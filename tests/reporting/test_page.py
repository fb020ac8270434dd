import re
from html.parser import HTMLParser

from support.pages import VOID, loads_nothing, read_page

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


class Boxes(HTMLParser):
    """inside: for each wide element, whether it stands in a box that scrolls by itself."""

    def __init__(self):
        super().__init__()
        self.open, self.inside = [], []

    def handle_starttag(self, tag, attributes):
        if tag in ("table", "pre", "svg"):
            self.inside.append((tag, tag == "pre" or "scroll" in self.open))
        if tag not in VOID:
            self.open.append(dict(attributes).get("class") or "")

    def handle_endtag(self, tag):
        self.open.pop()


def test_a_narrow_screen_never_scrolls_the_whole_page():
    """At 400 px there are 25 rem, of which the page's edges take 2: nothing outside of a scrolling box insists on more."""
    assert "<meta name='viewport' content='width=device-width, initial-scale=1'>" in page()
    boxes = Boxes()
    boxes.feed(page().replace("/>", "></path>"))
    assert {tag for tag, _ in boxes.inside} == {"table", "pre", "svg"}
    assert all(inside for _, inside in boxes.inside)
    rules = dict(re.findall(r"([^{}]+?)\s*\{([^{}]*)\}", STYLE.partition("@media (max-width")[0].replace("\n", " ")))
    told = {name.strip(): rule for name, rule in rules.items()}
    assert "overflow-x: auto" in told[".scroll"]
    assert "overflow-x: auto" in told["pre"]
    assert "overflow-wrap: anywhere" in told["body"]
    assert "width: 100%" in told[".scroll svg"]
    assert "max-width" in told["main"]
    least = [float(rem) for rem in re.findall(r"(?:min-width: |minmax\()([\d.]+)rem", STYLE)]
    assert least
    assert max(least) <= 25 - 2
    assert not re.search(r"[^-]width: [\d.]+(px|rem)", STYLE)
