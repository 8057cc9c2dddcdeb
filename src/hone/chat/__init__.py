"""Conversation to text to tokens and back: the one text path."""
