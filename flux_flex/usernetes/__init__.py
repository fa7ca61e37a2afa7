"""A Kubernetes for each job that asks: up with the prolog, away with the epilog, nothing left."""
