"""The choice itself: which frames explain the target, when each frame's share in it and its pose are known.

Used on the ground and in space, which differ in what a sample, a claim and a pose are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from context_as_memory.retrieval.rule import Coverage
from context_as_memory.shapes import Bool, Float, Int, UInt64

SHORTLIST = 256  # candidates that enter the greedy stage, best overlap first
ALIKE_LENS = 0.2  # difference in the logarithm of a lens' width from which views of one place are no duplicates
ALIKE = 1 + 1e-6  # squared distance of near-duplicates: steps of just `alike_m` are alike whatever their last digit
Words = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """C candidates in order of age, newest first, and behind them the most recent frame, if there is one (R = 0 or 1).

    claims: which of the target's samples each explains, bool [C + R, S]. poses: as points [D, C + R], at most 1 apart
    for near-duplicates. recorded: which were not generated, bool [C + R]. tie_break: [C] in [0, 1], more is better.
    """

    claims: Bool[np.ndarray, "n samples"]
    poses: Float[np.ndarray, "d n"]
    recorded: Bool[np.ndarray, " n"]
    tie_break: Float[np.ndarray, " c"]


def cover(offer: Offer, budget: int, rule: Coverage) -> tuple[list[int], Float[np.ndarray, " picks"]]:
    """Picks at most `budget` candidates: rows in the order of picking and their scores [m] (see `Retrieval`).

    In each of `layers` rounds the candidate is picked, again and again, that explains most of what is left to explain.
    The first round explains every sample once, what the most recent frame shows counting as explained; the next ones
    explain again what few frames explain. Near-duplicates of chosen frames are never picked: they would explain
    everything again from the same side of every wall. Slots that are then free are filled up (`fill_share`).
    """
    count, number = len(offer.tie_break), offer.claims.shape[1]
    rows: list[int] = []
    scores: list[float] = []
    if count == 0:
        return rows, np.array(scores)
    every, recorded = packed(offer.claims), offer.recorded[:count]
    words = every[:count]
    # The first part is below 1 sample: it decides between equal gains.
    bonus = offer.tie_break * 0.99 + rule.recorded_bonus * number * recorded
    least = max(rule.min_gain * number, 1)
    apart = np.full(count, np.inf)  # squared distance to the most similar chosen frame
    for last in range(count, len(every)):
        apart = _apart(apart, offer, last)
    explained_more = np.zeros((rule.layers, words.shape[1]), np.uint64)  # row i: samples explained more than i times
    explained_more[0] = np.bitwise_or.reduce(every[count:], axis=0)
    for layer in range(rule.layers):
        left = (words & ~explained_more[layer]).T.copy()  # sums over the first axis are twice as fast
        while len(rows) < budget:
            gain = np.add.reduce(np.bitwise_count(left), axis=0, dtype=np.float64)
            worth = np.where((gain >= least) & (apart > ALIKE), gain + bonus, -1.0)
            best = int(worth.argmax())
            if worth[best] < 0:
                break
            rows.append(best)
            scores.append(gain[best] / number)
            left &= ~left[:, best : best + 1]
            explained_more[1:] |= explained_more[:-1] & words[best]
            explained_more[0] |= words[best]
            apart = _apart(apart, offer, best)
    if rule.fill_share is None or len(rows) >= budget:
        return rows, np.array(scores)
    share = np.add.reduce(np.bitwise_count(words), axis=1, dtype=np.float64) / number
    shows = share >= rule.fill_share
    while len(rows) < budget:
        free = shows & (apart > ALIKE)
        first = free & recorded
        # Rounded, so that equal poses tie whatever their last digit; then the newest is picked.
        difference = np.where(first if first.any() else free, apart.round(6), -1.0)
        best = int(difference.argmax())
        if difference[best] < 0:
            break
        rows.append(best)
        scores.append(share[best])
        apart = _apart(apart, offer, best)
    return rows, np.array(scores)


def _apart(apart: Float[np.ndarray, " c"], offer: Offer, chosen: int) -> Float[np.ndarray, " c"]:
    """Squared distances [C] to the most similar chosen frame, with one more. Generated ones hide no recorded one."""
    poses, count = offer.poses, len(apart)
    step = poses[:, :count] - poses[:, chosen : chosen + 1]
    nearer = np.minimum(apart, np.add.reduce(step * step, axis=0))
    return nearer if offer.recorded[chosen] else np.where(offer.recorded[:count], apart, nearer)


def packed(claims: Bool[np.ndarray, "*n samples"]) -> UInt64[np.ndarray, "*n words"]:
    """Claims [..., S] as bits in 64-bit words: a pick of the greedy stage is then an AND and a bit count."""
    octets = np.packbits(claims, axis=-1)
    words = np.zeros((*octets.shape[:-1], -(-octets.shape[-1] // 8) * 8), np.uint8)
    words[..., : octets.shape[-1]] = octets
    return words.view(np.uint64)


def shortlist(overlap: Float[np.ndarray, " c"], size: int) -> tuple[Float[np.ndarray, " c"], Int[np.ndarray, " best"]]:
    """Candidates (ascending, with their overlaps [C]) newest first: overlaps in that order, and the `size` best."""
    tie_break = overlap[::-1].round(6)  # rounded, so that equal views tie whatever their last digit
    if len(tie_break) <= size:
        return tie_break, np.arange(len(tie_break))
    least = np.partition(tie_break, -size)[-size]
    above = np.flatnonzero(tie_break > least)
    equal = np.flatnonzero(tie_break == least)[: size - len(above)]  # the newest of them
    return tie_break, np.sort(np.append(above, equal))
