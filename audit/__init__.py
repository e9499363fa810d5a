"""Answers what happened, proves that nothing was altered, and says what would have been: from the log and the journal alone.

Nothing here writes to the log or to what is folded from it.
"""
