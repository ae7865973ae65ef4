"""Measured choices: candidates timed on this machine, and a database that remembers the times.

``records`` is what is remembered and its text form, ``database`` where, ``trial`` one node alone
with one algorithm, ``referee`` who computes the right numbers, ``tuner`` the loop over a graph.
Times only choose between algorithms that apply: a wrong time costs speed, never correctness.
"""

BUDGET = 30.0
"""Seconds that tuning a graph may take where nothing else is said."""
