"""Trained weights to files others can load."""
