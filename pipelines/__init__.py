"""KFP pipelines: their definition (`vhm`), and running them on this machine or a cluster (`run`)."""
