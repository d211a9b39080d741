"""What every artifact directory carries: `lineage.json` (`lineage`) and, for a model, its card (`model_card`)."""
