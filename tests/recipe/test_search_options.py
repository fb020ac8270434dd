"""Options of the allocator and of the proxy: all mistakes with their places when the recipe is read, nothing looked up in vain."""

import pytest

WRONG = [
    # search section (its first line is line 4), where, key, what, valid, hint
    (
        "  method: adalora\n  options:\n    beta1: 0.9\n    orthogonalty: 0",
        "mine.yaml:7",
        "search.options",
        "allocator 'adalora' has no option 'orthogonalty'",
        "beta1, beta2, orthogonality",
        "did you mean 'orthogonality'?",
    ),
    (
        "  method: heterolora\n  options: {smooth: 1}",
        "mine.yaml:5",
        "search.options",
        "smooth: 1 cannot be used here",
        "a number at least 0 and at most 0.99",
        "",
    ),
    ("  method: eva\n  options: {scale: won}", "mine.yaml:5", "search.options", "scale: won cannot", "full, own", ""),
    (
        "  method: glora\n  options: {holdout: 1}",
        "mine.yaml:5",
        "search.options",
        "holdout: 1 cannot be used here",
        "a number above 0 and below 1",
        "",
    ),
    (
        "  method: glora\n  options: {mutation: 0}",
        "mine.yaml:5",
        "search.options",
        "mutation: 0 cannot be used here",
        "a number above 0 and at most 1",
        "",
    ),
    (
        "  method: glora\n  options: {population: 2.5}",
        "mine.yaml:5",
        "search.options",
        "population: 2.5 cannot be used here",
        "a whole number at least 2",
        "",
    ),
    (
        "  proxy_options: {nrom: l1}",
        "mine.yaml:4",
        "search.proxy_options",
        "proxy 'gradnorm' has no option 'nrom'",
        "norm",
        "did you mean 'norm'?",
    ),
    (
        "  proxy: alpha\n  proxy_options:\n    tolerance: 1",
        "mine.yaml:6",
        "search.proxy_options",
        "tolerance: 1 cannot be used here",
        "a number at least 0 and below 1",
        "",
    ),
    (
        "  proxy: constant\n  proxy_options: {norm: l1}",
        "mine.yaml:5",
        "search.proxy_options",
        "proxy 'constant' has no option 'norm'",
        "it has none",
        "",
    ),
]


@pytest.mark.parametrize(("text", "where", "key", "what", "valid", "hint"), WRONG)
def test_an_option_that_is_not_there_or_cannot_be_so(mistakes, text, where, key, what, valid, hint):
    (problem,) = mistakes(f"search:\n{text}")
    assert (problem.where, problem.key, problem.valid, problem.hint) == (where, key, valid, hint)
    assert what in problem.what


def test_all_of_them_are_told_at_once(mistakes):
    problems = mistakes(
        "search: {method: sora, options: {a: 1, b: 2, penalty: no such}, proxy_options: {c: 3}, every: 0}"
    )
    assert [problem.key for problem in problems] == ["search.every", *["search.options"] * 3, "search.proxy_options"]


def test_options_stay_as_they_are_given(load):
    text = "search: {method: heterolora, options: {smooth: 0.50}, proxy: snip, proxy_options: {untrained: literal}}"
    search = load(text).recipe.search
    assert (search.options, search.proxy_options) == ({"smooth": "0.50"}, {"untrained": "literal"})


def test_a_proxy_may_have_its_options_without_a_search(load):
    """`lorakit search` asks for its scores all the same."""
    assert load("search: {proxy_options: {norm: l1}}").recipe.search.proxy_options == {"norm": "l1"}
