"""The backend zodb-pgjsonb: PostgreSQL, with large blobs in S3."""
