"""Make a small site, or add to it: each call adds one page and one image."""

from pathlib import Path

import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob

Path("site").mkdir(exist_ok=True)
db = ZODB.DB("site/Data.fs", blob_dir="site/blobs")
with db.transaction(note="add a page and an image") as connection:
    site = connection.root()
    number = len(site) + 1
    site[f"page-{number}"] = PersistentMapping(
        title=f"Page {number}", image=Blob(f"image {number}".encode() * 1000)
    )
    connection.transaction_manager.get().setUser("editor")
print("pages:", number)
db.close()
