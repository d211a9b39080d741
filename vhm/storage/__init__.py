"""S3: one bucket with retries and checksums (`s3`), and directories published and fetched whole (`versions`)."""
