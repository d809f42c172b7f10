"""The life of a request, from submission to its last token, whatever dies on the way. No HTTP, no sockets."""
