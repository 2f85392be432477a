"""From records to sufficient statistics: the attribution join, mergeable sums, and their audit."""
