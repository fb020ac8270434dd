"""``lorakit report`` on folders written by hand, whose numbers are known, and on a run that was really trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from support.pages import Reader, loads_nothing, read_page
from support.runs import edited_json
from support.small_history import CORRELATIONS, SITES, TIMELINE

import lorakit
from lorakit.errors import LorakitError, RunError, UsageError
from lorakit.workflow.records import with_costs

RECIPE = (
    "model: {name: some-encoder}\ntask: {name: rotten_tomatoes}\nadapter: {rank: 4}\nsearch: {method: heterolora}\n"
)
TASK = {
    "name": "rotten_tomatoes",
    "title": "film reviews",
    "text": ["text"],
    "label": "label",
    "labels": ["bad", "good"],
    "metrics": ["accuracy"],
}
METRICS = [
    {"step": 10, "epoch": 0.5, "loss": 0.7, "lr": 1e-3},
    {"step": 20, "epoch": 1.0, "split": "validation", "scores": {"accuracy": 0.8}},
    {"step": 30, "epoch": 1.5, "split": "validation", "scores": {"accuracy": 0.75}},
]
SUMMARY = {
    "task": "rotten_tomatoes",
    "metric": "accuracy",
    "last": {"accuracy": 0.75},
    "best": {"accuracy": 0.8},
    "best_step": 20,
    "steps": 30,
    "epochs": 1.5,
    "seconds": 8.0,
    "search_seconds": 2.0,
    "adapter_parameters": 500,
    "head_parameters": 770,
}


def adapter_record(on: list[str]) -> dict[str, Any]:
    kinds = {True: "shortcut", False: "linear"}
    return {
        "sites": [
            {
                "name": site.name,
                "layer": site.layer,
                "role": site.role,
                "kind": kinds[site.is_shortcut],
                "rank": site.rank,
                "state": "on" if site.name in on else "dropped",
                "parameters": site.parameters,
            }
            for site in SITES
        ]
    }


def write_run(path: Path, name: str = "small-0") -> Path:
    """A finished run of the search whose shares are worked out in small_history."""
    run = path / name
    (run / "adapter").mkdir(parents=True)
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "task.json").write_text(json.dumps(TASK))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "adapter" / "lorakit.json").write_text(json.dumps(adapter_record(TIMELINE[-1]["on"])))
    for file, records in (("metrics", METRICS), ("timeline", TIMELINE)):
        (run / f"{file}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path)


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, which take most of the time."""
    monkeypatch.setattr("lorakit.workflow.report.drawings", lambda *_: iter(()))


def shown(page: Path) -> Reader:
    read = read_page(page)
    assert loads_nothing(read)
    return read


def test_the_page_its_figures_and_its_numbers(run):
    result = lorakit.report(run)
    assert result.page == run / "report" / "report.html"
    names = ["curves", "time", "sites", "scores", "changes", "budget"]
    assert result.figures == [run / "report" / f"{name}.png" for name in names]
    assert all(matplotlib.image.imread(path).ndim == 3 for path in result.figures)
    assert sorted(path.name for path in (run / "report").iterdir()) == sorted(
        ["report.html", *(f"{n}.png" for n in names)]
    )
    read = shown(result.page)
    assert read.tags["svg"] == len(names)
    text = " ".join(read.text)
    assert "small-0: rotten_tomatoes" in text
    assert "some-encoder, adapter method lora, search heterolora by gradnorm, seed 0" in text
    for told in (
        "res1 50 %",
        "v 44 %",
        "v was on 78 % of the time, q 11 %",
        "75 % are on at the last",
        "25 % of it search",
    ):
        assert told in text
    for cell in ("0.7500", "0.8000", "770", "4 of 9", f"{CORRELATIONS[0]:.2f}", f"{CORRELATIONS[1]:.2f}", "1.75"):
        assert cell in read.text
    assert RECIPE in read.text


def test_json_has_the_numbers_behind_the_page(run, undrawn):
    told = json.loads(json.dumps(lorakit.report(run).to_dict()))
    shares = {role["name"]: (role["budget"], role["on"], role["lift"]) for role in told["roles"]}
    assert shares["v"] == pytest.approx((700 / 1600, 7 / 9, 1.75))
    assert [layer["budget"] for layer in told["layers"]] == pytest.approx([100 / 1600, 500 / 1600, 1000 / 1600])
    assert [kind["budget"] for kind in told["kinds"]] == [0.5, 0.5]
    assert told["value_against_query"]["layers_v"] == 3
    assert told["settling"]["correlation"] == pytest.approx(CORRELATIONS)
    assert told["settling"]["churn"] == [0.25, 0.25]
    assert [(tick["step"], tick["sites_on"], tick["parameters"]) for tick in told["ticks"]] == [
        (0, 4, 500),
        (10, 4, 600),
        (20, 4, 500),
    ]
    assert told["outcome"]["last"] == {"accuracy": 0.75}
    assert told["page"] == str(run / "report" / "report.html")
    assert told["summary"][0]["title"] == "The result"


def test_nothing_but_the_report_is_written_and_again_gives_the_same(run):
    (run / "timeline.jsonl").unlink()  # two figures are as good as six
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    page = lorakit.report(run).page.read_text()
    assert {path: path.read_bytes() for path in before} == before
    assert lorakit.report(run).page.read_text() == page


def test_names_are_escaped(tmp_path, undrawn):
    run = write_run(tmp_path, "<b>x")
    (run / "recipe.yaml").write_text(RECIPE + "# </pre><script>\n")
    read = shown(lorakit.report(run).page)
    assert "<b>x: rotten_tomatoes" in read.text
    assert "b" not in read.tags


def test_an_unfinished_run_is_told_as_such(run, undrawn):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "adapter")
    result = lorakit.report(run)
    text = " ".join(shown(result.page).text)
    assert "This run is not finished." in text
    assert "so far it has recorded 30 steps (1.5 epochs)" in text
    assert "best by accuracy, at step 20: accuracy 0.8000" in text
    assert "What each site costs is not written yet" in text
    assert result.outcome.adapter_parameters is None
    assert result.outcome.search_seconds == 1.5


def test_a_run_that_has_only_begun_has_a_page(run):
    shutil.rmtree(run / "adapter")
    for name in ("summary.json", "metrics.jsonl", "timeline.jsonl"):
        (run / name).unlink()
    result = lorakit.report(run)
    assert result.figures == []
    assert "Nothing has been scored" in " ".join(shown(result.page).text)


def test_without_a_search_there_are_curves_and_parameters(run, unrendered):
    (run / "timeline.jsonl").unlink()
    result = lorakit.report(run)
    assert [path.name for path in result.figures] == ["curves.png", "ranks.png"]  # not all are on
    text = " ".join(shown(result.page).text)
    assert "There was no search: 4 of 9 sites trained" in text
    assert result.ticks == []


@pytest.mark.slow
def test_a_search_without_scores_leaves_them_out(run, unrendered):
    records = [{**tick, "scores": {}, "cut": None} for tick in TIMELINE]
    (run / "timeline.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = lorakit.report(run)
    assert "scores.png" not in [path.name for path in result.figures]
    assert "records no scores for sites" in " ".join(shown(result.page).text)


def test_ranks_get_a_figure_of_their_own(run, unrendered):
    records = [{**tick, "ranks": dict.fromkeys(tick["on"], 2)} for tick in TIMELINE]
    (run / "timeline.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = lorakit.report(run)
    assert "ranks.png" in [path.name for path in result.figures]
    assert {role.name: role.rank for role in result.roles} == pytest.approx({"q": 2 / 9, "v": 14 / 9, "res1": 8 / 9})


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ({"imported": "there"}, "imported from there"),
        ({"combined": ["a", "b"], "method": "ties"}, "combined from a, b by ties"),
        ({"compressed": "there", "method": "svd"}, "compressed from there by svd"),
    ],
)
def test_a_run_that_was_never_trained(run, undrawn, origin, told):
    for name in ("metrics.jsonl", "timeline.jsonl"):
        (run / name).unlink()
    summary = {**SUMMARY, "last": {}, "best": {}, "steps": 0, "seconds": 0.0, **origin}
    for name in ("best_step", "search_seconds"):
        summary.pop(name)
    (run / "summary.json").write_text(json.dumps(summary))
    assert told in " ".join(shown(lorakit.report(run).page).text)


def test_what_an_evolution_found_is_not_called_unfinished(run, undrawn):
    for name in ("metrics.jsonl", "timeline.jsonl", "summary.json"):
        (run / name).unlink()
    text = " ".join(shown(lorakit.report(run).page).text)
    assert "not trained here but put together by a search" in text
    assert "not finished" not in text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("summary.json", "{", "summary.json: cannot be read as JSON"),
        ("summary.json", "{}", "summary.json: is not a run's summary: 'task' is missing"),
        ("summary.json", "[]", "summary.json: is not a run's summary"),
        ("task.json", '{"name": 1}', "task.json: is not a task"),
        ("adapter/lorakit.json", '{"sites": [{}]}', "lorakit.json: is not the description of an adapter"),
        ("adapter/lorakit.json", '{"sites": []}', "timeline.jsonl: is not the diary of this adapter's search"),
        ("timeline.jsonl", '{"tick": 0}\n', "timeline.jsonl:1: is not a record of this file: 'scores' is missing"),
        ("timeline.jsonl", "[1]\n", "timeline.jsonl:1: is not a record"),
        ("timeline.jsonl", json.dumps({**TIMELINE[0], "budget": "much"}) + "\n", "timeline.jsonl: is not the diary"),
        ("timeline.jsonl", json.dumps({**TIMELINE[0], "scores": {"layer.0.q": None}}) + "\n", "timeline.jsonl:1"),
        (
            "metrics.jsonl",
            '{"step": 1, "epoch": 1}\n',
            "metrics.jsonl:1: is not a record of this file: 'loss' is missing",
        ),
        ("metrics.jsonl", '{"step": "x", "epoch": 1, "loss": 1}\n', "'x' is no number"),
        ("metrics.jsonl", "\udcff", "metrics.jsonl: cannot be read"),
        ("recipe.yaml", "model: [", "recipe.yaml"),
    ],
)
def test_broken_files_are_one_error_that_names_them(run, undrawn, file, text, message):
    (run / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LorakitError) as raised:
        lorakit.report(run)
    assert message in str(raised.value)
    assert len(raised.value.problems) == 1


def test_missing_files_and_folders_are_named(run, tmp_path):
    (run / "adapter" / "lorakit.json").unlink()
    with pytest.raises(RunError, match=r"lorakit\.json is missing"):
        lorakit.report(run)
    with pytest.raises(UsageError, match="is not a run folder"):
        lorakit.report(tmp_path / "nowhere")
    (run / "generations.jsonl").touch()
    with pytest.raises(UsageError, match="evolutionary search"):
        lorakit.report(run)


def test_what_a_site_costs_is_taken_from_what_is_live():
    sites = [
        {"name": "a", "layer": 0, "role": "q", "rank": 8, "parameters": 30},  # 3 of 8 units are live
        {"name": "b", "layer": 1, "role": "q", "rank": 8, "parameters": 0},  # none is
        {"name": "c", "layer": 0, "role": "v", "rank": 4, "parameters": 0},
        {"name": "d", "layer": 0, "role": "k", "rank": 8, "parameters": 80},  # off with all its units
        {"name": "e", "layer": 0, "role": "o", "rank": 8, "units": [1, 4], "parameters": 40},
    ]
    costs = {site.name: site.parameters for site in with_costs(sites, {"a": 3, "b": 0, "c": 0, "d": 0})}
    assert costs == {"a": 80, "b": 80, "c": 40, "d": 80, "e": 160}


def test_a_trained_run(searched, tmp_path, unrendered):
    run = Path(shutil.copytree(searched.run_dir, tmp_path / "searched"))
    result = lorakit.report(run)
    timeline = [json.loads(line) for line in (run / "timeline.jsonl").read_text().splitlines()]
    sites = json.loads((run / "adapter" / "lorakit.json").read_text())["sites"]
    spent = {site["name"]: site["parameters"] * sum(site["name"] in t["on"] for t in timeline) for site in sites}
    for role in result.roles:
        mine = sum(spent[site["name"]] for site in sites if site["role"] == role.name)
        assert role.budget == pytest.approx(mine / sum(spent.values()))
    assert sum(spent.values()) == sum(t["parameters"] for t in timeline)
    assert [tick["sites_on"] for tick in result.ticks] == [len(t["on"]) for t in timeline]
    assert result.settling.churn == [t["churn"] for t in timeline[1:]]
    assert shown(result.page).tags["svg"] == len(result.figures)


def test_the_report_of_a_number_says_which_error_is_smaller(run, undrawn):
    (run / "summary.json").unlink()
    with edited_json(run / "task.json") as task:
        task |= {"labels": [], "metrics": ["mse"]}
    scored = [
        {"step": step, "epoch": 1.0, "split": "validation", "scores": {"mse": mse}} for step, mse in ((1, 2), (2, 3))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in scored))
    assert lorakit.report(run).outcome.best == {"mse": 2}


@pytest.mark.slow
def test_a_choice_made_once_has_no_figure_of_changes(run, unrendered):
    records = [{**TIMELINE[0], "tick": tick, "step": tick, "scores": {}} for tick in range(3)]
    (run / "timeline.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = lorakit.report(run)
    assert "changes.png" not in [path.name for path in result.figures]
    assert "Nothing changed after the first tick." in " ".join(shown(result.page).text)
