"""Plain data: what a TID, a site, a manifest are."""
