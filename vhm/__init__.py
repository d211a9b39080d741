"""VHM: train, evaluate and serve a versatile and honest vision-language model for remote sensing.

Importing this package is cheap: torch, deepspeed, kserve, kfp and great_expectations are
imported by the functions that use them.
"""

__version__ = "0.1.0"
