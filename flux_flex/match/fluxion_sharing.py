"""Asking fluxion where containers share nodes.

Fluxion's containment is a tree, so it is given each alias of a shared vertex as a vertex of its
own, and may answer with two of them though one excludes the other. Then all but one are marked
down and it is asked again, first with the first one kept, and if that leads nowhere with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.embedded.sharing import given_twice
from flux_flex.match.fluxion_library import Answer
from flux_flex.match.fluxion_view import View
from flux_flex.model.graph import IntArray

Picked = tuple[tuple[IntArray, IntArray, bool], ...]

# Each time takes as long as a match, and brings at least one vertex out of two hands.
MOST_TRIES = 64


def ask_without_clashes(
    view: View,
    ask: Callable[[], Answer],
    picked_in: Callable[[Answer], Picked],
    down: Iterable[int],
) -> tuple[Answer, Picked]:
    """Fluxion's answer in which nothing is given twice, and what it picks. ``down`` are the
    vertices that are marked down already. Raises as ``ask``, and Busy when no try succeeds."""
    refusal: Busy | Unsatisfiable | None = None
    untried: list[frozenset[int]] = [frozenset()]  # what to mark down, the last one first
    tried: set[frozenset[int]] = set()
    while untried and len(tried) < MOST_TRIES:
        barred = untried.pop()
        if barred in tried:
            continue
        tried.add(barred)
        try:
            answer = _ask_without(view, barred, ask, down)
        except (Busy, Unsatisfiable) as error:
            refusal = refusal or error
            continue
        picked = picked_in(answer)
        clashes = given_twice(picked, view.full)
        if not clashes:
            return answer, picked
        view.context.cancel(answer.jobid)
        untried += reversed([barred | others for others in _others(clashes)])
    if refusal is not None and len(tried) == 1:
        raise refusal
    what = "the containers that are free share what is wanted"
    raise Busy(what, remedy="ask again later, or reserve") from refusal


def _others(clashes: list[IntArray]) -> list[frozenset[int]]:
    """For each place in the lists of clashing aliases, the aliases at the other places."""
    most = max(map(len, clashes))
    return [
        frozenset(
            v for each in clashes for i, v in enumerate(each.tolist()) if i != kept % len(each)
        )
        for kept in range(most)
    ]


def _ask_without(
    view: View, barred: frozenset[int], ask: Callable[[], Answer], down: Iterable[int]
) -> Answer:
    if not barred:
        return ask()
    view.mark(barred, up=False)
    try:
        return ask()
    finally:
        view.mark(barred, up=True)
        view.mark(down, up=False)  # what is marked up is so with all below it
