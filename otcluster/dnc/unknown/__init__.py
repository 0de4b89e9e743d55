"""When a model had better say that it does not know: calibrated shares, scores of how well an image is known, a threshold."""
