"""What became of each recipient, as objects in the staging area, and the counts that must agree."""
