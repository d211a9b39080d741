"""The evaluation room: a model and evaluation files in, predictions, figures and a verdict out.

tasks       the task table: file, type, tag, and the published name of each task
generate    questions → predictions.jsonl
metrics     predictions → figures, in two scoring profiles
statistics  intervals: Wilson, paired bootstrap
report      scores.json → report.html
gate        scores.json → promote or stop
"""

from vhm.evaluate.run import evaluate

__all__ = ["evaluate"]
