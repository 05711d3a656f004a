"""Libraries of many structures: built once on the host, streamed to the device, split for training and testing."""
