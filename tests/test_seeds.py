"""The numbering of random draws: stored walks depend on it."""

from context_as_memory.seeds import draw_seed


def test_draws_are_numbered_as_stored_walks_have_them():
    assert [draw_seed(0, 0), draw_seed(0, 5), draw_seed(7, 5), draw_seed(7, -1)] == [0, 5, 7_000_026, 7_000_020]


def test_no_two_draws_of_neighbouring_runs_are_the_same():
    chunks, entries = range(0, 5_000, 7), range(-5_000, 0, 7)
    seeds = [draw_seed(seed, number) for seed in range(20) for number in (*entries, *chunks)]
    assert len(set(seeds)) == len(seeds)
