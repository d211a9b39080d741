"""Data: lists of records and their images, from outside files to training samples."""
