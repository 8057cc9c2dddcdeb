"""Ways of spreading a module over processes, one a file, each behind the same few verbs."""
