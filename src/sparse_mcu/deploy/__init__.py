"""The integer graph on a device: memory plan, encoded weights, C, boards, compilers, simulators."""
