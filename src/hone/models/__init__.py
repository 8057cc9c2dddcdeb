"""Tokenizers, weights, attention and the policy."""
