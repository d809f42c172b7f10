"""The gateway: clients' HTTP on one side, the life of each request over the bus on the other."""
