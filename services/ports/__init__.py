"""Small protocols at real I/O, and the values that cross them."""
