"""The evolution on made-up landscapes whose best point is known."""

import itertools
import json

import pytest

from lorakit.workflow.glora.evolution import Evolution, Gene, Rules

COSTS = {"large": 100, "small": 10, "none": 0}
GENES = [Gene(f"gene {number}", COSTS) for number in range(12)]
BEST = ("large", "none", "small") * 4


def likeness(candidate):
    """How many genes are as in BEST: its only maximum, 12, is there."""
    return float(sum(mine == best for mine, best in zip(candidate, BEST, strict=True)))


def run(generations, landscape=likeness, genes=GENES, seed=0, start=(), **rules):
    evolution = Evolution(genes, Rules(**rules), lambda number: 1000 * seed + number, [*start])
    while len(evolution.generations) < generations:
        evolution.record({candidate: landscape(candidate) for candidate in evolution.propose()})
    return evolution


def test_it_finds_a_known_optimum_that_random_search_does_not():
    evolution = run(25)
    assert evolution.ranked()[0].candidate == BEST
    assert evolution.ranked()[0].parameters == 4 * 100 + 4 * 10
    tried = sum(map(len, evolution.generations))
    assert tried <= 25 * 50
    random = run(1, population=tried)
    assert random.ranked()[0].fitness < 12  # 3^12 points: the chance of finding it is one in four hundred


def test_a_smaller_fitness_can_be_the_better_one():
    assert run(25, lambda candidate: 12 - likeness(candidate), maximise=False).ranked()[0].candidate == BEST


def test_nothing_is_scored_twice_and_a_generation_is_as_large_as_asked():
    evolution = run(10, population=20)
    tried = [scored.candidate for scored in evolution.scored()]
    assert [len(generation) for generation in evolution.generations] == [20] * 10
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 150), (0, 0), (700, 1200), (300, 310), (1200, None)])
def test_every_candidate_keeps_the_limits(lowest, highest):
    evolution = run(5, population=10, lowest=lowest, highest=highest)
    assert evolution.generations[0]
    for scored in evolution.scored():
        assert scored.parameters == sum(COSTS[choice] for choice in scored.candidate)
        assert lowest <= scored.parameters <= (1200 if highest is None else highest)


def test_with_tight_limits_the_best_within_them_is_found():
    def worth(candidate):
        return sum(10.0 - number for number, choice in enumerate(candidate) if choice == "large")

    assert run(20, worth, highest=200).ranked()[0].candidate == ("large", "large", *["none"] * 10)


def test_what_every_candidate_has_counts_within_the_limits():
    evolution = run(3, population=10, fixed=1000, highest=1150)
    assert all(1000 <= scored.parameters <= 1150 for scored in evolution.scored())
    assert evolution.most() == 1000 + 12 * 100


def test_of_equals_the_smaller_is_the_better_and_then_the_earlier():
    evolution = run(1, lambda candidate: 1.0, population=30)
    order = [scored.parameters for scored in evolution.ranked()]
    assert order == sorted(order)
    places = {scored.candidate: place for place, scored in enumerate(evolution.scored())}
    for one, two in itertools.pairwise(evolution.ranked()):
        assert one.parameters < two.parameters or places[one.candidate] < places[two.candidate]


def test_the_children_descend_from_the_best_parents_alone():
    start = run(1, population=8)
    parents = [scored.candidate for scored in start.ranked()[:2]]
    after = run(2, population=8, parents=2, mutation=1e-9, start=start.generations)
    # mutants are their parents again, which were scored; crossings take every gene from one of the two
    assert len(after.generations[1]) == 8
    for scored in after.generations[1]:
        assert all(mine in pair for mine, *pair in zip(scored.candidate, *parents, strict=True))


def test_a_space_that_is_exhausted_ends_the_search():
    genes = [Gene("one", {"yes": 1, "no": 0}), Gene("two", {"yes": 1, "no": 0})]
    evolution = Evolution(genes, Rules(population=10), lambda number: number)
    found = evolution.propose()
    assert sorted(found) == [("no", "no"), ("no", "yes"), ("yes", "no"), ("yes", "yes")]
    evolution.record(dict.fromkeys(found, 0.0))
    assert evolution.propose() == []


def test_the_same_seed_searches_the_same_way_and_another_does_not():
    assert run(5).generations == run(5).generations
    assert run(5, seed=1).generations != run(5).generations


@pytest.mark.parametrize("done", [0, 1, 4])
def test_generations_read_back_from_json_go_on_as_if_nothing_had_happened(done):
    whole = run(6)
    told = json.loads(json.dumps([[[*s.candidate], s.fitness] for g in whole.generations[:done] for s in g]))
    again = Evolution(GENES, Rules(), lambda number: number)
    for generation in by_fifty(told):
        again.record({tuple(candidate): fitness for candidate, fitness in generation})
    assert run(6, start=again.generations).generations == whole.generations


def by_fifty(rows):
    return [rows[start : start + 50] for start in range(0, len(rows), 50)]
