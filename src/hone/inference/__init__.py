"""Engines that answer."""
