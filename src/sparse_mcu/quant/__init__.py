"""A trained network as the integer graph that runs on the device, and its reference interpreter in NumPy."""
