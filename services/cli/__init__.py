"""The command line: starts, watches, asks and measures the services. Imports none of them, and no torch."""
