"""What the worker's control process knows of its streams: pure state, no bus and no clock."""
