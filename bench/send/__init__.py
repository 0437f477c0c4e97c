"""What sending costs: our sender beside a bare loop, the whole path beside the sender, and a peer beside both."""
