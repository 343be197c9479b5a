"""The server side: the ServerApp, the round loop, checkpoints, records and the report."""
