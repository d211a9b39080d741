"""Images: decoding (`decode`), the model's view of them (`transform`), where they are stored (`stores`) and caches."""

from vhm.data.images.decode import DEFAULT_LIMITS, FORMATS, Limits, load_image, load_pixels

__all__ = ["DEFAULT_LIMITS", "FORMATS", "Limits", "load_image", "load_pixels"]
