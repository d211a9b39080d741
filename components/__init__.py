"""KFP components: a signature, artifacts in and out, one call into `vhm.stages`.

Every component takes the resolved recipe as text. `data_hash` and `code` are not read: they are content
hashes that make KFP's cache key depend on what the data and the code are, and not on their names.
"""

IMAGE = "vhm-python:0.1.0"
