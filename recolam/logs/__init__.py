"""From raw logs to Delta tables: readers, validation with quarantine, an idempotent append-only store."""
