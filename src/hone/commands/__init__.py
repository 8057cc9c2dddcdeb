"""One file a verb: they put rooms together and hold no logic."""
