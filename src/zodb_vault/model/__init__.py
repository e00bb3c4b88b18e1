"""Plain data: TIDs, sites, manifests, and what the layers pass to each other."""
