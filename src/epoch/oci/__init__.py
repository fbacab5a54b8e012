"""The grammar of OCI: digests, names, media types, manifests."""
