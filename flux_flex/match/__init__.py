"""The question: does this job fit, where, and when. One interface, engines that answer alike.

>>> from flux_flex.match import open_matcher
>>> matcher = open_matcher("graph.json", policy="low")
>>> match = matcher.allocate(jobspec)
>>> match.at, [matcher.graph.names[v] for v in match.nodes]
"""

from flux_flex.errors import Busy, Unsatisfiable
from flux_flex.match.matcher import Match, Matcher, open_matcher

__all__ = ["Busy", "Match", "Matcher", "Unsatisfiable", "open_matcher"]
