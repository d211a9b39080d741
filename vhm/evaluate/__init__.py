"""Evaluation: a model and evaluation files in; predictions, scores, a report and a verdict out.

tasks         the task table: file, answer type, tag and published name of each task
answer_types  the table of answer types: scorers, primary metric, baseline, drawing
parse         words, letters and numbers in an answer
predict       questions → predictions/TASK.jsonl
predictions   the format of those files
metrics       predictions → metrics, in two scoring profiles
baselines     the most common answer; answers without the image
intervals     95 % intervals of metrics and margins
results       the typed results, and their form in scores.json
report        results → report.html
gate          scores.json → promote or stop
"""

from vhm.evaluate.run import evaluate

__all__ = ["evaluate"]
