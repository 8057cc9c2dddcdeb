"""The settings: pydantic only, never torch.

`load(arguments, verb)` is the door: it turns a file and overrides into a Run, or reports every mistake at once.
"""

from hone.config.flat import Loaded, load, load_for_use, read
from hone.config.run import Run
from hone.config.tree import to_dict, to_yaml

__all__ = ["Loaded", "Run", "load", "load_for_use", "read", "to_dict", "to_yaml"]
