"""Validation of list files: every record is accepted or rejected with a reason, then the complete list is assessed.

stream          where each record of a list file begins and ends; strict JSON
text_rules      what the turns of a conversation may contain
record_checks   one record → a row of the manifest or a reject reason
request         what a validation checks: lists, image stores, settings
chunks          chunks of lists checked by processes, resumable, in splits
similarity/     leaks of evaluation images, near-duplicates, blank images
expectations/   Great Expectations suites over the accepted records
validate        chunks → manifest, rejected records, verdict
report/         report.html for people, and a summary for Kubeflow
"""
