"""What stands behind every number that README, changelog or a note claims."""
