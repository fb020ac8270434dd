from dataclasses import replace

from support.small_history import SITES, TIMELINE, ranked_history, small_history

from lorakit.reporting.history import read_history, without_search
from lorakit.reporting.stability import measure_stability
from lorakit.reporting.summary import Outcome, Passage, listed, passages
from lorakit.tasks.calibration import Calibration, Reliability

DONE = Outcome(
    task="reviews",
    metric="accuracy",
    finished=True,
    last={"accuracy": 0.75},
    best={"accuracy": 0.8},
    last_step=30,
    best_step=20,
    steps=30,
    epochs=1.5,
    seconds=8.0,
    search_seconds=2.0,
    adapter_parameters=500,
    head_parameters=770,
)


def words(outcome, history) -> dict[str, str]:
    told: list[Passage] = passages(outcome, history, measure_stability(history))
    return {passage.title: " ".join(passage.sentences) for passage in told}


def test_a_search_in_words():
    told = words(DONE, small_history())
    outcome = told["The result"]
    assert "30 steps (1.5 epochs) on reviews in 8.0 s, 25 % of it search" in outcome
    assert "last score on the validation split: accuracy 0.7500" in outcome
    assert "best by accuracy, at step 20: accuracy 0.8000. The validation split itself chose it" in outcome
    assert "500 adapter parameters, and 770 in the head" in outcome
    assert "The head is larger than the adapters" in outcome
    budget = told["Who got the budget"]
    assert "Over 3 ticks, 4 of 9 sites were on at a time" in budget
    assert "res1 50 % (1.0 times its even share), v 44 % (1.8 times its even share) and q 6.2 %" in budget
    assert "first third (layer 0) 6.2 %, the middle third (layer 1) 31 % and the last third (layer 2) 62 %" in budget
    assert "Projections got 50 % and shortcuts 50 %" in budget
    assert "v was favoured over q" in budget
    assert "v was on 78 % of the time, q 11 %; v had more in 3 of the 3 layers with both, q in 0" in budget
    stability = told["Does the choice settle?"]
    assert "25 % of the sites that were on went off in the first third of the changes, 25 % in the last" in stability
    assert "too few ticks" in stability
    assert "75 % are on at the last; 3 were on at every tick and 3 at none" in stability
    assert "0.93 at first and 0.98 at the end" in stability
    assert "one run with one seed" in told["How far to trust this"]


def test_an_early_end_the_chosen_weights_and_their_calibration():
    stopped = "stopped at step 30 of 90: accuracy had not become better"
    told = words(replace(DONE, stopped=stopped, selected="best"), small_history())["The result"]
    assert f"It {stopped}." in told
    assert (
        "The weights used are the best by accuracy, of step 20: accuracy 0.8000. The validation split itself chose them"
        in told
    )
    assert "quote the last score" not in told
    found = Calibration(1.8, 900, Reliability(0.5, 0.1), Reliability(0.4, 0.025))
    told = words(replace(DONE, calibration=found), small_history())["The result"]
    assert "off by 0.1000 on average (the expected calibration error); by 0.0250 with the temperature of 1.8" in told
    told = words(replace(DONE, calibration=replace(found, note="too few rows")), small_history())["The result"]
    assert "no temperature was fitted: too few rows." in told


def test_q_above_v_and_alike_are_told_as_such():
    on = [{**TIMELINE[0], "on": ["layer.0.q", "layer.1.q"]}]
    assert "q was favoured over v, the opposite" in words(DONE, read_history(on, SITES))["Who got the budget"]
    on = [{**TIMELINE[0], "on": ["layer.2.v", "layer.1.res1"]}]
    assert "not in most of the layers" in words(DONE, read_history(on, SITES))["Who got the budget"]
    on = [{**TIMELINE[0], "on": ["layer.0.q", "layer.0.v"]}]
    assert "treated about alike" in words(DONE, read_history(on, SITES))["Who got the budget"]


def test_ranks_without_scores():
    told = words(DONE, ranked_history())
    assert "(mean ranks v 3.0, q 2.5; v had more in 1 of the 1 layers with both, q in 0)" in told["Who got the budget"]
    assert "rank units that left their site: 50 % first, 50 % last" in told["Does the choice settle?"]
    assert "no scores for sites" in told["Does the choice settle?"]


def test_without_a_search():
    everything = without_search(SITES, [site.name for site in SITES])
    told = words(replace(DONE, search_seconds=0.0, best_step=30), everything)
    assert list(told) == ["The result", "Where the parameters are"]
    assert "search" not in told["The result"]
    assert "also the best by accuracy, which is always chosen" in told["The result"]
    assert told["Where the parameters are"].startswith("There was no search: all 9 sites trained all the time.")
    assert "by role: res1 50 %, q 25 % and v 25 %" in told["Where the parameters are"]


def test_unfinished_and_untrained_runs_say_so():
    begun = Outcome(task="reviews", metric="accuracy", finished=False, steps=12, epochs=0.5)
    told = words(begun, read_history([], []))
    assert list(told) == ["The result"]
    assert "not finished: so far it has recorded 12 steps (0.5 epochs)" in told["The result"]
    assert "Nothing has been scored" in told["The result"]
    brought = words(replace(DONE, origin="imported from there"), without_search(SITES, []))
    assert "not trained here but imported from there" in brought["The result"]


def test_a_choice_at_random_means_nothing():
    at_random = [{**TIMELINE[0], "proxy": "constant"}]
    assert "chooses at random" in words(DONE, read_history(at_random, SITES))["How far to trust this"]


def test_lists_as_words():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
