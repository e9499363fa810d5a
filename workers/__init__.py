"""Acts: the worker that claims and trains, its training child, and the supervisor that notices lost workers."""
