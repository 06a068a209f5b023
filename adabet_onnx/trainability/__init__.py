"""What can be trained: by which backend, after which repairs, with which loss, and what stands in the way."""
