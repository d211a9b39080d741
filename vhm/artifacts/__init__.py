"""Metadata of artifact directories: `lineage.json` (`lineage`) and the card of a model (`model_card`)."""
