"""``otcluster cluster``: k-means of files of vectors, from the command line to the files that it leaves."""
