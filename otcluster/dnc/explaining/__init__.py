"""Why a model decides as it does: what is true by construction of a classifier of the nearest sub-centroid."""
