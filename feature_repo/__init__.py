"""Definition of the features; read by `feast apply`, imported by no module."""
