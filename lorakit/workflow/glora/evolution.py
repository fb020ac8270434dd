"""Evolution of a network's configuration under parameter limits (GLoRA: Chavan et al. 2023, section 2.4, after AutoFormer).

    generation 0: random         generation n: half mutants of the best parents, half crossings of two of them, the rest random

A candidate is one choice a gene, and costs what its choices cost together. None is scored twice. A generation is a function of the
seed and of the generations before it alone, so that their records are all that a search needs to go on.

Differs from the authors' code: a candidate outside the limits is brought inside by random cheaper (or dearer) choices instead of being
thrown away, which under tight limits never ends; of equals the one with fewer parameters is the better; generation 0 counts as one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Candidate = tuple[str, ...]
TRIES = 10
"""Draws for each candidate that is wanted, after which fewer have to do."""


@dataclass(frozen=True)
class Gene:
    """One thing to choose: its name, and what each choice costs in parameters."""

    name: str
    costs: Mapping[str, int]


@dataclass(frozen=True)
class Rules:
    """What the search keeps to.

    population: candidates a generation; parents: the best so far that have children; mutation: the chance that a gene of a mutant is
    drawn anew; fixed: parameters that every candidate has beside its choices; lowest and highest: those it may have; maximise:
    whether a higher fitness is the better one.
    """

    population: int = 50
    parents: int = 10
    mutation: float = 0.2
    fixed: int = 0
    lowest: int = 0
    highest: int | None = None
    maximise: bool = True


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness."""

    candidate: Candidate
    parameters: int
    fitness: float


@dataclass
class Evolution:
    """The generations so far, and what to try next. seed_of: generation -> the seed of its draws."""

    genes: Sequence[Gene]
    rules: Rules
    seed_of: Callable[[int], int]
    generations: list[list[Scored]] = field(default_factory=list)

    def propose(self) -> list[Candidate]:
        """The next generation, at most ``population`` candidates, all new; fewer where no more are found."""
        rng = random.Random(self.seed_of(len(self.generations)))
        parents = [scored.candidate for scored in self.ranked()[: self.rules.parents]]
        seen = {scored.candidate for scored in self.scored()}
        found: list[Candidate] = []
        ways: list[tuple[Callable[[], Candidate], int]] = [(lambda: self.draw(rng), self.rules.population)]
        if parents:
            half = self.rules.population // 2
            ways = [(lambda: self.mutate(parents, rng), half), (lambda: self.cross(parents, rng), 2 * half), *ways]
        for make, until in ways:
            for _ in range(TRIES * (until - len(found))):
                if len(found) == until:
                    break
                candidate = self.bring_inside(make(), rng)
                if candidate is not None and candidate not in seen:
                    seen.add(candidate)
                    found.append(candidate)
        return found

    def record(self, fitness: Mapping[Candidate, float]) -> None:
        """Add a generation: its candidates and how fit they are, in order."""
        self.generations.append([Scored(c, self.parameters(c), value) for c, value in fitness.items()])

    def ranked(self, among: Iterable[Scored] | None = None) -> list[Scored]:
        """The best first, of all that were scored; of equals the one with fewer parameters, then the earlier one."""
        sign = -1 if self.rules.maximise else 1
        scored = self.scored() if among is None else among
        return sorted(scored, key=lambda each: (sign * each.fitness, each.parameters))

    def mean(self, number: int) -> float:
        """Mean fitness of a generation."""
        return sum(scored.fitness for scored in self.generations[number]) / len(self.generations[number])

    def scored(self) -> Iterator[Scored]:
        """All that were scored, in order."""
        return (each for generation in self.generations for each in generation)

    # -- candidates ---------------------------------------------------------------------------------------------------

    def parameters(self, candidate: Candidate) -> int:
        """What it has beside its choices, and what they cost together."""
        return self.rules.fixed + sum(gene.costs[choice] for gene, choice in zip(self.genes, candidate, strict=True))

    def most(self) -> int:
        """The most parameters that any candidate has."""
        return self.rules.fixed + sum(max(gene.costs.values()) for gene in self.genes)

    def draw(self, rng: random.Random) -> Candidate:
        """Every gene drawn uniformly."""
        return tuple(rng.choice([*gene.costs]) for gene in self.genes)

    def mutate(self, parents: Sequence[Candidate], rng: random.Random) -> Candidate:
        """A parent with some genes drawn anew, which may come out as they were."""
        parent = rng.choice(parents)
        return tuple(
            rng.choice([*gene.costs]) if rng.random() < self.rules.mutation else choice
            for gene, choice in zip(self.genes, parent, strict=True)
        )

    def cross(self, parents: Sequence[Candidate], rng: random.Random) -> Candidate:
        """Each gene from one of two parents."""
        return tuple(rng.choice(pair) for pair in zip(rng.choice(parents), rng.choice(parents), strict=True))

    def bring_inside(self, candidate: Candidate, rng: random.Random) -> Candidate | None:
        """The candidate, with as many random genes made cheaper, or dearer, as the limits ask for; None where that does not do."""
        chosen, total = [*candidate], self.parameters(candidate)
        for _ in range(TRIES):
            for place in rng.sample(range(len(chosen)), len(chosen)):
                side = self.side(total)
                if side == 0:
                    return tuple(chosen)
                costs = self.genes[place].costs
                now = costs[chosen[place]]
                better = [choice for choice, cost in costs.items() if (cost - now) * side < 0]
                if better:
                    chosen[place] = rng.choice(better)
                    total += costs[chosen[place]] - now
        return tuple(chosen) if self.side(total) == 0 else None

    def side(self, parameters: int) -> int:
        """1 above the limits, -1 below them, 0 within."""
        if self.rules.highest is not None and parameters > self.rules.highest:
            return 1
        return -1 if parameters < self.rules.lowest else 0
