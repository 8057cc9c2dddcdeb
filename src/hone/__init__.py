"""hone: fine-tune, check, serve and export large language models.

Imports nothing, so that `hone version` is immediate; the rooms are imported by the commands that need them.
"""

__version__ = "0.1.0"
