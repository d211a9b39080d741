"""Import of foreign formats: LLaVA, ShareGPT, messages, tables, WebDataset, COCO and benchmark files become lists.

`import_data` converts a file or a folder; `recognise` says what a file is. The formats are the table in `formats.py`.
"""

from vhm.data.importing.formats import format_names, recognise

__all__ = ["format_names", "recognise"]
