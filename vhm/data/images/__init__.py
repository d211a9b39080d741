"""Images: decoding (`decode`), the transform into model input (`transform`), stores of files (`stores`) and caches."""

from vhm.data.images.decode import DEFAULT_LIMITS, FORMATS, Limits, load_image, load_pixels

__all__ = ["DEFAULT_LIMITS", "FORMATS", "Limits", "load_image", "load_pixels"]
