"""What a replica serves from: models, catalogue and experiment state, refreshed in the background."""
