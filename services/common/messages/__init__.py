"""The wire types, one file per hop. See docs/architecture.md for who sends what to whom."""
