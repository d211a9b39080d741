"""S3: one bucket with retries and checksums (`s3`), and versioned directories in it (`versions`)."""
