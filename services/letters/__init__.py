"""Dead letters for people: show them, put them back."""
