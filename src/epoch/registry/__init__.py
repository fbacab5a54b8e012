"""Manifests, tags, referrers, the catalog: small JSON over the store, never blob bytes."""
