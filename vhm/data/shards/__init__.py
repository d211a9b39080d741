"""WebDataset tar shards: their table and safe reading (`table`), packing and unpacking (`pack`)."""
