"""Runs it: the embedded Kafka and PostgreSQL, and `ravand up`, which keeps every service going on one machine."""
