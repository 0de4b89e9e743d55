"""Tests of the rooms of clustering."""
