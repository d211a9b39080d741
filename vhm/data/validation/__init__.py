"""Validation of list files: every record is accepted or rejected with a reason, then the complete list is assessed.

stream             where each record of a list file begins and ends; strict JSON
text_rules         what the turns of a conversation may contain
record_checks      one record without its image → a row, or a reject reason
image_checks       one image → its size, hash, summary and leak, or a reject reason
similarity/        leaks, near-duplicates and blank images
findings           what is found about images, and the lines of leaks.jsonl and suspicious.jsonl
request            what a validation checks: lists, image stores, settings; the key of finished work
evaluation_images  the images that training images are compared with
chunks             both passes in chunks by processes, resumable
splits             the folder of unfinished work; splits and their merge
verdicts           what becomes of each record, given all checks
expectations/      Great Expectations suites over the accepted records
validate           verdicts → manifest, rejected records, findings, result
report/            report.html for people, and a summary for Kubeflow
"""
