"""Learns what an image shows."""
