"""Tests of what runs in a training child, and of how a worker comes by one."""
