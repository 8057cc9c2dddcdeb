"""Ways to learn, one file a kind."""
