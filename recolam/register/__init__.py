"""The way into production: the gate, the model registry, promotion and rollback, the served model."""
