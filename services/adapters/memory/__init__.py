"""In-memory doubles of the ports; they pass the conformance suite of the real adapters."""
