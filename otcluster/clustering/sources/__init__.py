"""Vectors that do not fit in memory: files that are read a chunk at a time, as k-means goes through them."""

from otcluster.clustering.sources.base import VectorSource, chunk_rows
from otcluster.clustering.sources.opening import Sharded, open_vectors
from otcluster.clustering.sources.parquet import ParquetFile
from otcluster.clustering.sources.plain import NpyFile, SafetensorsFile

__all__ = ["NpyFile", "ParquetFile", "SafetensorsFile", "Sharded", "VectorSource", "chunk_rows", "open_vectors"]
