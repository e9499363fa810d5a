"""Decides: events, the states folded from them, and which events take effect. No I/O, no clock, no ids drawn."""
