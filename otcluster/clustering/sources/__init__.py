"""Vectors that do not fit in memory: files that are read a chunk at a time, as k-means goes through them."""

from otcluster.clustering.sources.base import VectorSource, chunk_rows
from otcluster.clustering.sources.opening import Sharded, open_vectors
from otcluster.clustering.sources.parquet import ParquetFile
from otcluster.clustering.sources.plain import NpyFile, SafetensorsFile
from otcluster.clustering.sources.slice import Slice

__all__ = ["NpyFile", "ParquetFile", "SafetensorsFile", "Sharded", "Slice", "VectorSource", "chunk_rows", "open_vectors"]
