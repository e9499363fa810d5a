"""Judges the judges: a second, plain implementation of the rules, and the invariants of a whole run as code.

It shares no code with `domain` or `projections` on purpose, reads JSON with the standard library, and prefers being obvious
to being fast: what it says about a history must be believable by reading it.
"""
