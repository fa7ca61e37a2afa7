"""The decision to rent: which jobs may burst, onto what, at what cost, and the record of it."""
