"""Comparing images: leaks of evaluation images into training lists, near-duplicates, and images without content."""

from vhm.data.validation.similarity.duplicates import near_duplicates
from vhm.data.validation.similarity.evaluation import save_fingerprints
from vhm.data.validation.similarity.finder import LeakFinder, load_finder
from vhm.data.validation.similarity.fingerprint import Fingerprint, fingerprint
from vhm.data.validation.similarity.summary import ImageSummary, summarise

__all__ = [
    "Fingerprint",
    "ImageSummary",
    "LeakFinder",
    "fingerprint",
    "load_finder",
    "near_duplicates",
    "save_fingerprints",
    "summarise",
]
