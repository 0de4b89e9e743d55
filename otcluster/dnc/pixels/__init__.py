"""Deep Nearest Centroids for pixels: a pixel is of the class of its nearest sub-centroid."""
