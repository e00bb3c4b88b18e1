"""Find out from its tables where a zodb-pgjsonb keeps its blobs.

``blob_state`` holds them, or their keys in S3.
"""

from __future__ import annotations

from ...errors import ConfigurationError
from ...model.source import Database
from ..sql.probe import ProbedDatabase


def judge(database: Database, probed: ProbedDatabase) -> list[str]:
    """Compare where the tables say that blobs are with the configuration.

    Return warnings, raise ConfigurationError.
    """
    if not probed.has_table("blob_state"):
        return ["the database holds no tables of zodb-pgjsonb yet"]
    in_s3 = probed.first("select 1 from blob_state where s3_key is not null limit 1") is not None
    if in_s3 and database.blob_mode != "database+s3":
        raise ConfigurationError(
            [
                f"database {database.name}: <pgjsonb> names no s3-bucket-name, so its blobs should be in "
                "the database, "
                "but blob_state there refers to objects in S3: these blobs would not be copied"
            ],
            "name the bucket and the prefix as s3-bucket-name and s3-prefix; or use the zope.conf that "
            "the site runs with",
        )
    return []
