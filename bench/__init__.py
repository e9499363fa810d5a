"""Measures: real processes, each figure beside the limit of its own parts taken in the same run. `python -m bench`."""
