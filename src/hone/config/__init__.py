"""The settings: pydantic only, never torch."""
