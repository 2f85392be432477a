"""What an experiment is and may become: decisions, and the state that is the fold over them."""
