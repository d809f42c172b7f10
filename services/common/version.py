"""The version of the whole system; every service of a deployment reports it."""

VERSION = "0.1.0"
