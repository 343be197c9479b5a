"""The client side: the ClientApp, the workspace of a process, and what a client keeps on disk."""
