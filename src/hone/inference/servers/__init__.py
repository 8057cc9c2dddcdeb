"""Engines that are servers in environments of their own, asked over HTTP. Does not know what is asked of them."""
