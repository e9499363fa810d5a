"""Backups: what an installation is at one moment, as a folder, and an empty installation made into that."""
