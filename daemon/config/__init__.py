"""The configuration: schema, parser with positions, precedence, legacy form, diff."""
