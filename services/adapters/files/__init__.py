"""Files: imported data, model artifacts, the lake."""
