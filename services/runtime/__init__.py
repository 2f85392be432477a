"""What every process needs: signals, logging, liveness, worker loops, dead letters."""
