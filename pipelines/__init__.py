"""KFP pipelines: what runs after what (`vhm`), and how it is run here or elsewhere (`run`)."""
