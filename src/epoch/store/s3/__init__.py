"""The store over an S3-compatible bucket. The only room that knows aiohttp."""
