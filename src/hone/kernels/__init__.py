"""Single operations: a reference in plain torch and faster forms."""
