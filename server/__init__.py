"""HTTP and nothing else: read, queue, call, encode."""
