"""What a model has learnt and why it decides as it does, as one page that a person can look at, and as plain data."""
