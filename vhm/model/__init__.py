"""Models: assembled, converted, warm-started, loaded and saved, each as one Hugging Face LLaVA directory.

build            load, assemble in memory, save
assemble         a base model from a vision tower and an LLM on disk
convert          the reference layout ↔ Hugging Face
warm_start       a trained projector into a base model, checked for exactness
projector        projector files in every layout
llama_tokenizer  the exact slow Llama tokenizer as tokenizer.json
weights          weight files: listed, mapped, written
"""

from vhm.model.build import load_model

__all__ = ["load_model"]
