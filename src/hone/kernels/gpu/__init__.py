"""The passes of fused operations in Triton, for CUDA devices; passes.py is the only way in.

None of them has run on a device yet: they are proven in Triton's interpreter, and switched on by fused_kernels: true alone.
"""
