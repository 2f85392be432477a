"""`ringside doctor`: check everything an operator would check first, and say how to fix each problem."""
