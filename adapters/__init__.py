"""Touches the outside: settings, Kafka, PostgreSQL, the object store, logging, dataset files."""
