"""Says what crosses a boundary: records, facts, tables, heartbeats, telemetry, profiles, recipes. No I/O."""
