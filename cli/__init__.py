"""The command line `ravand`."""
