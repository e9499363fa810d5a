"""Accounts: who people are, proven by a password once and by a signed token afterwards. Rows, never events."""
