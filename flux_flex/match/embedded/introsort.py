"""The order in which an introsort leaves equal keys.

Fluxion ranks what it found with C++'s sort, which is not stable: of many candidates with the same
score, which come first is up to the algorithm. To choose the same ones, this is that algorithm:
Musser's introsort (1997) with the parameters of the common C++ library: quicksort on the median
of the second, the middle and the last, down to runs of 16, then one insertion sort over all;
where the parts stay large for too long, a heap sort of the part.
"""

from __future__ import annotations

from collections.abc import Sequence

_RUN = 16


def introsorted(keys: Sequence[int]) -> list[int]:
    """The positions of ``keys`` in the order of that sort; stable up to 16 of them."""
    count = len(keys)
    if count <= _RUN:
        return sorted(range(count), key=keys.__getitem__)
    order = list(range(count))
    _split(keys, order)
    _insert(keys, order)
    return order


def _split(keys: Sequence[int], order: list[int]) -> None:
    """Partition until every run has at most 16, the right parts first."""
    stack = [(0, len(order), 2 * (len(order).bit_length() - 1))]
    while stack:
        first, last, depth = stack.pop()
        while last - first > _RUN:
            if depth == 0:
                _heap_sort(keys, order, first, last)
                break
            depth -= 1
            cut = _partition(keys, order, first, last)
            stack.append((cut, last, depth))
            last = cut


def _partition(keys: Sequence[int], order: list[int], first: int, last: int) -> int:
    _median_to_front(keys, order, first, last)
    pivot = keys[order[first]]
    left, right = first + 1, last
    while True:
        while keys[order[left]] < pivot:
            left += 1
        right -= 1
        while pivot < keys[order[right]]:
            right -= 1
        if left >= right:
            return left
        order[left], order[right] = order[right], order[left]
        left += 1


def _median_to_front(keys: Sequence[int], order: list[int], first: int, last: int) -> None:
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    ka, kb, kc = keys[order[a]], keys[order[b]], keys[order[c]]
    if ka < kb:
        median = b if kb < kc else c if ka < kc else a
    else:
        median = a if ka < kc else c if kb < kc else b
    order[first], order[median] = order[median], order[first]


def _heap_sort(keys: Sequence[int], order: list[int], first: int, last: int) -> None:
    """Sort a part of which the partitions were too uneven."""
    heap = order[first:last]
    for top in range((len(heap) - 2) // 2, -1, -1):
        _sift(keys, heap, top, len(heap), heap[top])
    for size in range(len(heap) - 1, 0, -1):
        value, heap[size] = heap[size], heap[0]
        _sift(keys, heap, 0, size, value)
    order[first:last] = heap


def _sift(keys: Sequence[int], heap: list[int], top: int, size: int, value: int) -> None:
    """Put ``value`` in at ``top``: the hole moves all the way down, and the value up from there."""
    hole = top
    while (right := 2 * hole + 2) < size:
        larger = right - (keys[heap[right]] < keys[heap[right - 1]])
        heap[hole] = heap[larger]
        hole = larger
    if right == size:
        heap[hole] = heap[size - 1]
        hole = size - 1
    key = keys[value]
    while hole > top and keys[heap[(hole - 1) // 2]] < key:
        heap[hole] = heap[(hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[hole] = value


def _insert(keys: Sequence[int], order: list[int]) -> None:
    for i in range(1, len(order)):
        value = order[i]
        key = keys[value]
        j = i
        while j > 0 and key < keys[order[j - 1]]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = value
