"""Rewards: how good an answer is, by rules that can be checked."""
