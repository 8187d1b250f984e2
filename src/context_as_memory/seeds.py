"""The one rule by which random draws are numbered, in use, training and evaluation alike. Imports nothing."""

APART = 1_000_003  # a prime: runs whose seeds are neighbours share no draw before their millionth


def draw_seed(seed: int, number: int) -> int:
    """The seed of one draw of a run, a whole number of any size: with the run's own seed it is the whole random state.

    number: from 0 upwards the chunk of a walk or the step of a training; from -1 downwards, -1 - n is entry n of a
    memory. It depends on nothing else, so a walk that goes on tomorrow draws as if it had never stopped.
    """
    return seed * APART + number
