"""HTTP without a dialect: bodies with limits, errors, server-sent events, the server itself."""
