"""Streams: the same again from the same name, and nothing in common with any other."""

import itertools

import torch

from lorakit.training.seeds import derive_seed, generator


def test_the_same_seed_and_name_give_the_same_draws():
    first, again = (torch.randn(5, generator=generator(3, "init/x")) for _ in range(2))
    assert torch.equal(first, again)


def test_neighbouring_seeds_and_names_share_nothing():
    keys = list(itertools.product(range(50), ("init", "data", "dropout", "search", "init/a", "init/b")))
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    draws = torch.stack([torch.randn(400, generator=generator(*key)) for key in keys[:40]])
    correlations = torch.corrcoef(draws) - torch.eye(40)
    assert correlations.abs().max() < 0.25  # five standard deviations of 1/sqrt(400)


def test_a_seed_and_a_name_do_not_run_into_each_other():
    assert derive_seed(1, "1/x") != derive_seed(11, "/x")


def test_seeds_fit_into_what_torch_and_numpy_take():
    assert all(0 <= derive_seed(seed, "data") < 2**63 for seed in range(100))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    generator(0, "data")
    assert torch.equal(torch.get_rng_state(), before)
