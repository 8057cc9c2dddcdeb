"""hone schema: prints the JSON schema of all settings; an editor that reads it completes and checks a YAML file.

Does not know the settings.
"""

from __future__ import annotations

import json

from hone.config.schema import json_schema
from hone.errors import HoneError


def main(arguments: list[str]) -> int:
    """Print the schema."""
    if arguments:
        raise HoneError(f"schema takes no arguments, saw {' '.join(arguments)}; write `hone schema > hone.schema.json`")
    print(json.dumps(json_schema(), indent=1))
    return 0
