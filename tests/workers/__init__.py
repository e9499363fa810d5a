"""Tests of what acts: the worker, its training child, the supervisor."""
