"""The activity worker: make recent activity of users readable online within a second."""
