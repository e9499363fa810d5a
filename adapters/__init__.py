"""Touches the outside: settings, Kafka, PostgreSQL, the object store, logging, dataset files."""

from adapters.asyncio_timeout import mend_if_needed

mend_if_needed()
