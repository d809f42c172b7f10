"""The router: which worker runs which request, and who waits in what order. Sees no tokens of the answer."""
