"""The data room: lists of records and their images, from outside to training samples."""
