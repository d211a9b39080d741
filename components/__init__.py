"""KFP components: a signature, artifacts in and out, one call into `vhm.stages`.

Every component takes the resolved recipe as text. `data_hash` and `code` are not read: they are content hashes that
make KFP's cache key depend on the contents of data and code instead of their names. The image has KFP installed:
installing it at the start of every task would need the network, and kfp.local runs tasks that install something one at
a time.
"""

import vhm

IMAGE_NAME = "vhm-python"
IMAGE = f"{IMAGE_NAME}:{vhm.__version__}"
