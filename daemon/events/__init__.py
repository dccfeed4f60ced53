"""The event bus and its durable journal."""
