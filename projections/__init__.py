"""Remembers: judges the log, writes the read models, publishes the facts and the tables."""
