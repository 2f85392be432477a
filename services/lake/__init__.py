"""The lake worker: write topics to Parquet, each record once, and keep the history of recent activity."""
