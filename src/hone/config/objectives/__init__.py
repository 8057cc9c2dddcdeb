"""Sections of kinds of training that learn from something else than the data's own tokens, a file a source."""
