"""Weights of few bits as safetensors: how each is rounded, stored, and written tensor by tensor out of a recipe."""
