"""The training package: a model directory and a manifest in, a trained model directory out.

launch      starts `torchrun … -m vhm.train` and watches it
__main__    one rank: arguments → loop
loop        the training loop: prepare, resume, step, export
prepare     the process group, the model, the samples, the sampler and the engine of a rank
trainable   which parameters are trained
samples     records → token ids, encoded once and memory-mapped
sampler     which samples make which step: a function of seed, epoch and step alone
collate     samples and images → padded tensors
engine      DeepSpeed around the model and its optimizer; the learning rate
checkpoint  exact resume, local or in S3
log         train_log.jsonl, one line per step
export      the trained model directory
"""

from vhm.train.launch import train

__all__ = ["train"]
