"""Commands on experiments, shared by the command line, HTTP, the console and training."""
