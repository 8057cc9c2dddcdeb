"""Serving: OpenAI's protocol over HTTP, and who may ask how much."""
