"""How good answers are, by rules that need no model."""
