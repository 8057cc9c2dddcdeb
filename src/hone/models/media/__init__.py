"""Pictures and sounds as models take them: files, families, the Reader of a model, and what its forward is given."""
