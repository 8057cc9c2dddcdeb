"""From plan to checkpoint."""
