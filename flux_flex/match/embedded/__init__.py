"""The embedded engine: fluxion's questions over numpy arrays, with no Flux on the machine.

``request`` compiles a jobspec against a graph, ``planner`` knows who holds what and when,
``traverser`` finds vertices in one state of the planner, ``policies`` says which to prefer, and
``engine`` puts them together as a :class:`~flux_flex.match.Matcher`.
"""

from flux_flex.match.embedded.engine import EmbeddedMatcher

__all__ = ["EmbeddedMatcher"]
