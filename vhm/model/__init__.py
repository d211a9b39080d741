"""The model room: one Hugging Face LLaVA directory in, one out, and proof of what changed between."""

from vhm.model.build import load_model

__all__ = ["load_model"]
