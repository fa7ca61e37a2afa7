"""The order in which fluxion's sort leaves equal keys, against what C++'s std::sort did."""

import random

import numpy as np
import pytest

from flux_flex.match.embedded import introsort
from flux_flex.match.embedded.introsort import introsorted
from flux_flex.match.embedded.policies import MAX_FOLLOWED, preferred

# fmt: off
# (keys, positions in sorted order), from std::sort of g++'s library.
SORTED = [
    (
        [2, 1, 2, 1, 2, 2, 2, 2, 0, 1, 0, 2, 0, 0, 0, 1, 1],
        [14, 13, 12, 10, 8, 16, 15, 9, 3, 1, 7, 6, 5, 11, 4, 2, 0],
    ),
    (
        [0, 1, 2, 0, 2, 0, 0, 2, 0, 1, 1, 0, 1, 0, 0, 0, 2, 2],
        [0, 15, 3, 14, 5, 6, 13, 8, 11, 1, 12, 10, 9, 7, 4, 2, 16, 17],
    ),
    (
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 2, 0, 0, 2, 0, 1, 1, 0, 1],
        [1, 21, 18, 16, 15, 11, 8, 7, 6, 5, 4, 3, 2, 9, 10, 19, 20, 0, 22, 12, 13, 14, 17],
    ),
    (
        [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
        [10, 19, 18, 17, 16, 15, 14, 13, 12, 11, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    ),
    (
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7,
         7, 7, 8],
        [1, 2, 3, 0, 4, 5, 6, 7, 9, 11, 10, 8, 12, 13, 14, 15, 16, 19, 18, 17, 20, 21, 22, 23, 24,
         25, 26, 27, 28, 29, 30, 31, 32],
    ),
    (
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
         9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
        [39, 29, 9, 19, 28, 8, 38, 18, 27, 7, 37, 17, 16, 26, 36, 6, 15, 35, 25, 5, 14, 34, 24, 4,
         13, 33, 23, 3, 32, 2, 22, 12, 1, 31, 21, 11, 30, 20, 10, 0],
    ),
    (
        [5, 1, 1, 2, 1, 2, 2, 1, 2, 1, 2, 2, 2, 5, 2, 1, 5, 5, 1, 1, 2, 1, 2, 5, 1, 5, 2, 5, 1, 5,
         1, 1, 1, 1, 1, 5, 2, 2, 2, 5, 1, 2, 2, 1, 5, 1, 1, 2, 2, 1, 2, 2, 1, 2, 2, 2, 1, 1, 1, 2],
        [40, 19, 21, 24, 28, 30, 31, 32, 33, 34, 1, 43, 45, 46, 49, 52, 56, 57, 58, 18, 9, 7, 15,
         4, 2, 55, 54, 53, 3, 51, 50, 5, 48, 47, 6, 59, 8, 42, 41, 20, 38, 22, 26, 14, 12, 11, 10,
         36, 37, 35, 44, 13, 29, 27, 25, 16, 23, 39, 0, 17],
    ),
]
# fmt: on

# Falling and rising again: the median of three is a bad pivot each time, until the sort gives up
# on partitions.
VALLEY = [*reversed(range(47)), *range(47)]
# fmt: off
VALLEY_SORTED = [
    47, 46, 45, 48, 44, 49, 43, 50, 42, 51, 41, 52, 40, 53, 54, 39, 55, 38, 56, 37, 36, 57, 35,
    58, 34, 59, 33, 60, 61, 32, 62, 31, 63, 30, 64, 29, 28, 65, 27, 66, 67, 26, 25, 68, 69, 24,
    70, 23, 22, 71, 72, 21, 20, 73, 19, 74, 18, 75, 17, 76, 16, 77, 15, 78, 14, 79, 13, 80, 12,
    81, 82, 11, 10, 83, 9, 84, 8, 85, 7, 86, 6, 87, 88, 5, 4, 89, 3, 90, 91, 2, 92, 1, 0, 93,
]
# fmt: on


@pytest.mark.parametrize(("keys", "order"), SORTED)
def test_equal_keys_come_as_the_library_leaves_them(keys, order):
    assert introsorted(keys) == order
    assert preferred(np.array(keys)).tolist() == order
    assert order != sorted(range(len(keys)), key=keys.__getitem__)  # or it would say nothing


def test_uneven_partitions_end_in_a_heap_sort_with_its_own_order_of_equals(monkeypatch):
    parts = []
    heap_sort = introsort._heap_sort
    monkeypatch.setattr(
        introsort, "_heap_sort", lambda *part: parts.append(part[2:]) or heap_sort(*part)
    )
    assert introsorted(VALLEY) == VALLEY_SORTED
    assert parts


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16])
def test_up_to_sixteen_keys_equal_ones_stay_in_order(count):
    assert introsorted([3] * count) == list(range(count))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_keys_they_end_up_sorted(seed):
    rng = random.Random(seed)
    keys = [rng.randrange(rng.choice([2, 9, 999])) for _ in range(rng.randrange(900))]
    order = introsorted(keys)
    assert sorted(order) == list(range(len(keys)))
    assert [keys[i] for i in order] == sorted(keys)


def test_different_keys_have_only_one_order():
    keys = np.random.default_rng(1).permutation(500)
    assert preferred(keys).tolist() == np.argsort(keys).tolist()


def test_more_equal_keys_than_are_followed_stay_in_order():
    assert preferred(np.zeros(MAX_FOLLOWED + 1, dtype=np.int64)).tolist() == list(
        range(MAX_FOLLOWED + 1)
    )
