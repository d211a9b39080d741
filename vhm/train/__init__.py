"""The training room: a model directory and a manifest in, a trained model directory out.

launch      starts `torchrun … -m vhm.train` and watches it
__main__    one rank: arguments → loop
loop        the training loop, from top to bottom
order       which samples make which step: a function of seed, epoch and step alone
batches     samples → padded tensors
engine      DeepSpeed around the model and its optimizer
checkpoint  exact resume
"""

from vhm.train.launch import train

__all__ = ["train"]
