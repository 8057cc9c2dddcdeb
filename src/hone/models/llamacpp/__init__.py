"""llama.cpp's library: in a process of its own, asked by this one."""
