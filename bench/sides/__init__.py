"""The systems: one file each, which says a job in the system's own words and starts it as its users do.

`words(job)`: the settings; `train(job)`: the run; `ready(job)`, where data preparation is compared: a function that prepares.
"""
