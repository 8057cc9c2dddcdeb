"""A run's state in folders: written, held, carried, found again. Does not know how it was computed."""
