"""How a query and a document become one text, in training and in use alike.

Does not know tokens, nor what the text is for.
"""

from __future__ import annotations

import re


def write_pair(pattern: str, query: str, document: str) -> str:
    """`pattern` with the two where it says {query} and {document}; braces in the two mean nothing."""
    values = {"{query}": query, "{document}": document}
    return re.sub(r"\{query\}|\{document\}", lambda found: values[found[0]], pattern)
