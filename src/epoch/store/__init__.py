"""Where objects are kept: one interface, an S3-compatible bucket or a directory behind it."""
