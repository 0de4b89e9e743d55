"""What outlives a step: modules of buffers that change only when they are told to."""
