"""What a feature is: read by `feast apply`, imported by nobody."""
