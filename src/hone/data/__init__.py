"""Rows of files to encoded sequences to batches."""
