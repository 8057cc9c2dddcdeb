"""The dialects: how the tools on offer, calls and results are written, and how calls are read back; one file a family."""
