"""The lake worker: topics to Parquet, each record once; and the history of what was served, for Feast."""
