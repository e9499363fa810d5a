"""Makes the read model anew from the log, beside the live one, compares both row by row, and swaps them.

Nobody who reads notices: new tables are filled from offset 0 on, by as many processes as there are cores, while the
projector goes on with the live ones. It publishes nothing, and its verdicts are computed from the bytes, never copied.
`run` is the whole of it; `ravand admin rebuild-projections` and the API start it.
"""
