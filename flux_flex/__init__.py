"""flux-flex: Kubernetes and the cloud as part of a Flux system.

Every room of the package asks a question of a resource graph: does this job fit, when, how
close together, and what would have to be rented for it to fit. Start at
:func:`flux_flex.match.open_matcher`.
"""

__version__ = "0.1.0"
