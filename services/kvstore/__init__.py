"""kvstore: which worker's prefix cache holds which blocks, in memory and in Redis; and the log of streams."""
