"""A scenario in, a timeline out: the same burst decision under a virtual clock."""
