"""A recipe that does what a test tells it to: for the worker's tests, found by entry point like any plugin."""
