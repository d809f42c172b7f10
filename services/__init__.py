"""Shoal's services. Each folder is a service of its own; `common` is the one library that they share."""
